"""What a line typed into `siftline answer` means."""

import pytest

from flows.cli.answer.keys import Keys, NotUnderstood


def test_classes_named_like_keys_are_never_given_by_mistake() -> None:
    stars = Keys(["2", "1", "s", "none"], multi_label=True)
    assert stars.offered() == ["2", "1", "s", "none"]
    assert stars.meaning("1") == ("1",)
    assert stars.meaning("s, 2") == ("2", "s")
    assert stars.meaning("none") == ("none",)
    assert stars.meaning(":s") == "skip"
    assert stars.meaning(":none") == ()
    assert ":s skip" in stars.help()
    ratings = Keys(["5 stars", "4 stars", "3 stars", "2 stars", "1 star"], multi_label=False)
    assert ratings.offered()[0] == "5 stars"
    assert ratings.meaning("5") == ("5 stars",)
    assert ratings.more == "m"
    assert Keys(["S", "M", "L"], multi_label=False).more == ":m"
    cased = Keys(["Spam", "spam", "a, b"], multi_label=True)
    assert cased.meaning("spam") == ("spam",)
    assert cased.meaning("a, b") == ("a, b",)
    late = Keys(["late", "pay, late", "pay", "pay, late, again"], multi_label=True)
    assert late.meaning("pay, late") == late.meaning("PAY, LATE") == ("pay, late",)
    assert late.meaning("pay,late, pay, late") == ("late", "pay, late", "pay")
    assert late.meaning("pay, late, late") == ("late", "pay, late")
    assert late.meaning("4,pay, late, again ,1") == ("late", "pay, late, again")
    with pytest.raises(NotUnderstood, match="Spam or spam"):
        cased.meaning("SPAM")


def test_digits_commas_and_accents_may_be_those_of_another_keyboard() -> None:
    keys = Keys(["退款", "好评", "café"], multi_label=True)
    assert keys.meaning("１，３") == ("退款", "café")
    assert keys.meaning("٢، ١") == ("退款", "好评")
    assert keys.meaning("好评、退") == ("退款", "好评")
    assert keys.meaning("CAFE\u0301") == keys.meaning("cafe\u0301") == ("café",)
    assert Keys(["好，坏", "x"], multi_label=True).meaning("好，坏, x") == ("好，坏", "x")
    with pytest.raises(NotUnderstood, match="go from 1 to 3"):
        keys.meaning("４")
    with pytest.raises(NotUnderstood, match="No class is named '²'"):
        keys.meaning("²")
