"""The version, alone: hatch reads this file, and nothing has to be imported for it."""

__version__ = "0.1.0"
