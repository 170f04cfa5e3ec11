"""Secrets: their form, and that they differ."""

import pytest

from audio.access import secrets


@pytest.mark.parametrize("kind", [secrets.KEY, secrets.TOKEN])
def test_a_secret_is_found_by_its_prefix_and_known_by_its_digest(kind):
    made = secrets.new(kind)
    assert made.text.startswith(f"{kind}{made.prefix}_")
    assert secrets.parse(made.text) == (kind, made.prefix, made.digest)
    assert made.text not in (made.prefix, made.digest)
    assert secrets.new(kind).prefix != made.prefix


@pytest.mark.parametrize(
    "change", [lambda text: text[:-1], lambda text: text + "A", str.upper, lambda text: f" {text}"]
)
def test_what_is_cut_or_changed_is_no_secret(change):
    assert secrets.parse(change(secrets.new(secrets.KEY).text)) is None
