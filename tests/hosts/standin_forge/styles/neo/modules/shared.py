"""Stands for ``modules/shared.py`` of Neo: the option ``use_old_scheduling`` is gone."""

from modules import original

_original = original("shared")
globals().update({k: v for k, v in vars(_original).items() if not k.startswith("__")})
for settings in (_original.DEFAULTS, _original.opts.data):
    del settings["use_old_scheduling"]
