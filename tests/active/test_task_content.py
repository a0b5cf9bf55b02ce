"""What leaves the warehouse with a task: named keys only, and images from the configured place only."""

import json

import pytest

from active.annotation.task_content import Content
from warehouse import SettingsError

PREFIX = "https://images.example.org/"


def test_the_text_is_shown_where_nothing_else_is_named() -> None:
    assert Content().texts("the text", '{"secret": "s"}') == ("the text",)
    assert Content().image_of('{"file": "a.png"}') is None


def test_lines_that_end_as_windows_ends_them_are_no_double_lines() -> None:
    assert Content().texts("a\r\nb\r\n\r\nc\n", "{}") == ("a\nb\n\nc\n",)
    assert Content(show=("q",)).texts("", '{"q": "a\\r\\nb"}') == ("a\nb",)


def test_named_keys_take_the_place_of_the_text() -> None:
    pair = Content(show=("question", "answer"))
    metadata = json.dumps({"question": "q?", "answer": 42, "secret": "s"})
    assert pair.texts("q? 42", metadata) == ("q?", "42")
    assert pair.texts("q?", "{}") == ("", "")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("a/b c.png", PREFIX + "a/b%20c.png"),
        ("ü?x=1#y.png", PREFIX + "%C3%BC%3Fx%3D1%23y.png"),
        ("@evil.example/a.png", PREFIX + "%40evil.example/a.png"),
        ("javascript:alert(1)", PREFIX + "javascript%3Aalert%281%29"),
        ("https://evil.example/a.png", ""),
        ("//evil.example/a.png", ""),
        ("/etc/passwd", ""),
        ("a/../../secret", ""),
        ("..\\secret", ""),
        ("a\nb", ""),
        ("", ""),
    ],
)
def test_an_image_is_at_the_configured_place_or_nowhere(path: str, address: str) -> None:
    images = Content(image="file", image_prefix=PREFIX)
    assert images.image_of(json.dumps({"file": path})) == address


@pytest.mark.parametrize(
    "settings",
    [
        {"image": "file"},
        {"image_prefix": PREFIX},
        {"image": "file", "image_prefix": "file:///etc/"},
        {"image": "file", "image_prefix": "javascript:alert(1)/"},
        {"image": "file", "image_prefix": "https://user:canary@host/"},
        {"image": "file", "image_prefix": "https://[::1/"},
        {"image": "file", "image_prefix": "https://images.example.org"},
        {"show": ("a", "b", "c", "d", "e")},
    ],
)
def test_settings_that_cannot_be_used(settings: dict) -> None:
    with pytest.raises(SettingsError, match="annotate") as refused:
        Content(**settings)
    assert "canary" not in str(refused.value)
