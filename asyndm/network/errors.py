"""What can go wrong between AsynDM and a network, each in one line for the person at the page."""

from __future__ import annotations


class UnsupportedNetwork(RuntimeError):
    """A network AsynDM cannot work in; the image can still be made synchronously."""


class RowsMismatch(RuntimeError):
    """What the host set for a network call does not describe the batch the network was given."""


class TokensMismatch(IndexError):
    """A word's place is none of the tokens that the network was given."""
