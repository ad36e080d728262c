"""What tests of the verifier share."""

import sys

import pytest

from spikeyolo import cli


@pytest.fixture
def spikeyolo(monkeypatch, capsys):
    """Run ``spikeyolo verify``; return exit code, output, errors."""

    def run(**arguments):
        monkeypatch.setattr(sys, "argv", ["spikeyolo", "verify", *(f"{k}={v}" for k, v in arguments.items())])
        code = cli.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
