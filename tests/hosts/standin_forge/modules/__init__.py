"""The Forge family's contract on top of AUTOMATIC1111's stand-in: what is not here is taken there.

``styles/`` has one folder a host; it is put before this one, so that ``modules_forge.STYLE`` says
which host is stood for, and the backend's name is there to be found.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
