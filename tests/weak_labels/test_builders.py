"""Builders vote on whole columns, for whole words in any script, and refuse what cannot work."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from tests.weak_labels.lf_helpers import CLASSES, batch, encode
from warehouse import SettingsError
from weak_labels import ABSTAIN, ItemBatch, keywords, nearest, regex, vectorized
from weak_labels.functions.call import call_function
from weak_labels.functions.types import LabelingFunction
from weak_labels.functions.version import fingerprint

TAKEN_FOR_THE_OTHER = [
    (0x5F, 0x5F),  # the underline, a letter here
    (0xAA, 0xBE),  # ª µ º and small numbers, signs here
    (0x2C2, 0x2FF),  # marks of phonetics
    (0x375, 0x60B),  # signs of one script each, as all up to 1FFE
    (0x610, 0x61A),  # honorific marks behind Arabic names, signs here
    (0x6DD, 0x6FE),
    (0x700, 0x1FFE),
    (0x2070, 0x209C),  # small numbers, signs here
    (0x20D0, 0x20F0),  # marks around symbols
    (0x2102, 0x2189),  # letters of mathematics and numerals, signs here
    (0x2460, 0x2793),  # numbers in circles, signs here
    (0x2CE5, 0x2CFF),
    (0x2D70, 0x2D70),
    (0x2E2F, 0x2E2F),
    (0x3005, 0x303C),  # marks and numerals beside Chinese and kana, which need no sign
    (0x309B, 0x309C),
    (0x30A0, 0x30A0),
    (0x3190, 0x31EF),
    (0x322A, 0x33FF),  # squares of units and circled letters
    (0x4DC0, 0x4DFF),
    (0xA490, 0xABEB),
    (0xE000, 0xF8FF),  # private use
    (0xFB29, 0xFB29),
    (0xFBB2, 0xFBC2),
    (0xFDCF, 0xFDCF),
    (0xFE00, 0xFE0F),  # what chooses a picture, behind emoji
    (0xFF66, 0xFFDC),  # halfwidth kana and Hangul, signs here
]
"""Ranges where the signs that end words are not Unicode's: a pattern that knows all takes too long to compile."""


def votes(function: LabelingFunction, *texts: str, **further: object) -> list[int]:
    outcome = call_function(function, batch(texts, **further))
    assert outcome.faults == []
    return outcome.votes.tolist()


class TestKeywords:
    def test_whole_words_in_any_case(self) -> None:
        function = keywords("politics", ["vote", "senate"])
        assert votes(function, "They VOTE.", "devoted", "the senate", "(senate)", "vote_count", "") == [
            1,
            -1,
            1,
            1,
            -1,
            -1,
        ]

    def test_letters_of_other_scripts_bound_words(self) -> None:
        function = keywords("science", ["café", "физика", "rôle"])
        assert votes(function, "un café!", "cafés", "CAFÉ", "физика.", "физикa2", "contrôle") == [2, -1, 2, 2, -1, -1]

    @pytest.mark.parametrize(
        "sign", ["“{}”", "«{}»", "{}—", "¿{}?", "{}…", "（{}）", "{}\u00a0x", "🎉{}⚽", "{}،", "-{}-"]
    )
    def test_signs_of_any_script_end_words(self, sign: str) -> None:
        assert votes(keywords("sports", ["goal"]), sign.format("Goal")) == [0]

    def test_phrases_match_any_white_space(self) -> None:
        assert votes(keywords("sports", ["home  run"]), "a home\n run", "homerun", "home and run") == [0, -1, -1]

    @pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u202f", "\u3000", "\x0b", " \u00a0"])
    def test_the_spaces_of_web_pages_are_white_space(self, space: str) -> None:
        function = keywords("sports", ["home run", "hit"], min_hits=2)
        assert votes(function, f"hit a home{space}run", f"hit a home,{space}run") == [0, -1]

    def test_signs_are_taken_as_they_are(self) -> None:
        function = keywords("science", ["c++", "a.b", "\\d", "50%"])
        assert votes(function, "in c++ now", "c", "axb", "a.b", "7", "\\d", "at 50%") == [2, -1, -1, 2, -1, 2, 2]

    def test_min_hits_counts_different_words(self) -> None:
        function = keywords("sports", ["goal", "match", "team"], min_hits=2)
        assert votes(function, "goal goal goal", "goal match", "team, x\nmatch", "team") == [-1, 0, 0, -1]

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["new york", "york city"], "in New York City"),
            (["oil", "crude oil"], "crude oil"),
            (["a_b c", "C d", "e"], "a_b c d"),
            (["a b c", "b"], "a b c"),
            (["ſa la", "sa"], "ſa la"),
        ],
    )
    def test_min_hits_counts_words_that_overlap(self, words: list[str], text: str) -> None:
        assert votes(keywords("sports", words, min_hits=2), text, "oil york la e") == [0, -1]

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            ("ሰላም", "ሰላም።"),
            ("ዓለም", "ሰላም፡ዓለም"),
            ("בית", "בית־ספר"),
            ("İstanbul", "İstanbul güzel"),
            ("İstanbul", "istanbul güzel"),
            ("退款", "我要退款。"),
            ("返金", "返金してください"),
            ("สวัสดี", "ขอสวัสดีครับ"),
            ("មួយ", "មួយ។"),
            ("ကောင်း", "ကောင်း။"),
            ("गलत", "गलत।"),
        ],
    )
    def test_words_of_other_scripts_stand_where_their_readers_see_them(self, word: str, text: str) -> None:
        assert votes(keywords("sports", [word]), text, "goal") == [0, -1]

    def test_beside_scripts_without_spaces_others_keep_their_ends(self) -> None:
        function = keywords("sports", ["退款", "vote"])
        assert votes(function, "我要退款", "devoted", "a vote", "VOTE") == [0, -1, 0, 0]
        both = keywords("sports", ["退款", "vote"], min_hits=2)
        assert votes(both, "我要退款", "退款 vote", "vote 退款退款", "退款vote") == [-1, 0, 0, -1]

    @pytest.mark.parametrize(
        "text",
        [
            "❤\ufe0fgoal",
            "so goal\ufe0f",
            "\ufeffgoal",
            "﴿goal﴾",
            "goal﹐ yes",
            "٪goal",
            "goal・vote",
            "㈜goal",
            "﷼goal",
        ],
    )
    def test_signs_among_letters_of_other_scripts_end_words(self, text: str) -> None:
        assert votes(keywords("sports", ["goal"]), text) == [0]

    def test_fullwidth_letters_and_digits_are_no_signs(self) -> None:
        assert votes(keywords("sports", ["ａｉ", "ai"]), "ＦＡＩＬ", "ＡＩ！", "Ｆai", "１ai") == [-1, 0, -1, -1]

    def test_signs_of_the_whole_plane_are_those_of_unicode(self) -> None:
        signs = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
        ends = votes(keywords("sports", ["goal"]), *(f"goal{sign}" for sign in signs))
        wrong = [
            ord(sign)
            for sign, vote in zip(signs, ends, strict=True)
            if (vote == 0) == (unicodedata.category(sign)[0] in "LMN")
        ]
        known = [code for first, last in TAKEN_FOR_THE_OTHER for code in range(first, last + 1)]
        assert [f"{code:04X}" for code in wrong if code not in known] == []

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            ("Rückgabe", "Bitte RÜCKGABE prüfen"),
            ("trả lại", "tôi muốn trả  lại hàng"),
            ("환불", "환불 요청"),
            ("がき", "はがきで"),
            ("c++é", "in c++É now"),
            ("i̇é", "an İÉ"),
        ],
    )
    def test_words_and_texts_may_have_either_form_of_unicode(self, word: str, text: str) -> None:
        texts = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
        for form in ("NFC", "NFD"):
            found = keywords("sports", [unicodedata.normalize(form, word)])
            assert votes(found, *texts, f"x{word}x" if word != "がき" else "x") == [0, 0, -1]
        assert votes(
            keywords("sports", ["cafe"]), "cafe", *(unicodedata.normalize(f, "café") for f in ("NFC", "NFD"))
        ) == [
            0,
            -1,
            -1,
        ]

    @pytest.mark.parametrize("word", ["don't", "don’t", "donʼt"])
    def test_an_apostrophe_is_found_however_it_was_typed(self, word: str) -> None:
        function = keywords("sports", [word, "l’été"])
        assert votes(function, "I don't", "DON’T!", "donʼt", "dont", "don t", "à l'été") == [0, 0, 0, -1, -1, 0]
        assert function.version != fingerprint("keywords", "sports", (word, "l’été"), 1, "forms")
        both = keywords("sports", ["don't", "don’t", "won't"], min_hits=2)
        assert votes(both, "don't don’t", "don’t, won’t") == [-1, 0]

    def test_two_forms_of_a_word_are_one_word(self) -> None:
        words = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
        assert votes(keywords("sports", [*words, "bar"], min_hits=2), "un café", "café bar") == [-1, 0]

    @pytest.mark.parametrize(
        ("word", "text", "other"),
        [
            ("straße", "DIE STRASSE IST GESPERRT", "die strasse"),
            ("Große Straße", "GROSSE STRASSE", "Gros Stras"),
            ("ılık", "ILIK SU", "ilik su"),
        ],
    )
    def test_capitals_that_are_other_letters_are_found(self, word: str, text: str, other: str) -> None:
        assert votes(keywords("sports", [word]), text, word, other) == [0, 0, -1]
        assert keywords("sports", [word]).version != fingerprint("keywords", "sports", (word.lower(),), 1)

    @pytest.mark.parametrize(
        ("word", "texts"),
        [
            ("👍", ["Great👍", "👍👍", "👍🏽", "好👍。"]),
            ("❤️", ["love❤️", "love❤", "❤️❤️you"]),
            ("👨‍👩‍👧", ["we👨‍👩‍👧are"]),
            ("🇹🇷", ["kargo🇹🇷"]),
            ("😡 refund", ["x😡 refund."]),
        ],
    )
    def test_emoji_stand_beside_words_without_a_space(self, word: str, texts: list[str]) -> None:
        assert votes(keywords("sports", [word]), *texts, "goal", "😡 refunds") == [0] * len(texts) + [-1, -1]

    def test_a_letter_that_both_forms_replace_is_still_found(self) -> None:
        assert votes(keywords("sports", ["\uf900"]), "\uf900", "\u8c48") == [0, 0]

    def test_the_version_changes_where_votes_may(self) -> None:
        assert keywords("sports", ["退款"]).version == fingerprint("keywords", "sports", ("退款",), 1, "runs on")
        assert keywords("sports", ["がき"]).version != fingerprint("keywords", "sports", ("がき",), 1, "runs on")
        words = ("goal", "física")
        assert keywords("sports", words).version != fingerprint("keywords", "sports", words, 1)

    def test_a_set_of_words_has_one_version_in_every_process(self) -> None:
        """The order of a set is another one in each, and a changed version votes again."""
        words = [f"word{number}" for number in range(20)]
        assert keywords("sports", set(words)).version == keywords("sports", sorted(words)).version
        assert keywords("sports", words).version != keywords("sports", words[::-1]).version
        like = nearest({"sports": frozenset(words)}, radius=0.5)
        assert like.version == nearest({"sports": sorted(words)}, radius=0.5).version

    @pytest.mark.parametrize(("words", "min_hits"), [([], 1), (["a", " "], 1), (["a"], 2), (["a"], 0)])
    def test_useless_words_are_refused(self, words: list[str], min_hits: int) -> None:
        with pytest.raises(SettingsError, match="keywords"):
            keywords("sports", words, min_hits=min_hits)

    def test_a_string_is_not_a_list_of_words(self) -> None:
        with pytest.raises(SettingsError, match=r"\['goal'\]"):
            keywords("sports", "goal")


class TestRegex:
    def test_matches_somewhere(self) -> None:
        assert votes(regex("sports", r"\bgoals?\b"), "two goals", "goalie", "GOAL") == [0, -1, -1]

    def test_backreference_is_refused_in_words(self) -> None:
        with pytest.raises(SettingsError, match="no backreferences"):
            regex("sports", r"(a)\1")

    def test_pattern_that_explodes_elsewhere_ends(self) -> None:
        # Python's re would need longer than the universe has; RE2 is linear.
        assert votes(regex("sports", r"(a+)+$"), "a" * 5000 + "b", "aaa") == [-1, 0]


EXEMPLARS = {"sports": ["goalgoal"], "science": ["atom", "quark"]}


class TestNearest:
    def test_votes_for_the_nearest_within_the_radius(self) -> None:
        texts = ("goal", "moat", "zzz")
        function = nearest(EXEMPLARS, radius=0.2)
        assert votes(function, *texts, vectors=encode(texts), encode=encode) == [0, 2, -1]

    def test_radius_is_a_cosine_distance(self) -> None:
        vectors = np.array([[0.8, 0.6]], np.float32)

        def encode_exemplar(_: object) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
            return np.array([[1.0, 0.0]], np.float32)

        for radius, expected in ((0.21, 0), (0.19, -1)):
            function = nearest({"sports": ["x"]}, radius=radius)
            assert votes(function, "t", vectors=vectors, encode=encode_exemplar) == [expected]

    @pytest.mark.parametrize("exemplars", [{}, {"sports": []}, {"sports": [" "]}])
    def test_no_exemplars_are_refused(self, exemplars: dict[str, list[str]]) -> None:
        with pytest.raises(SettingsError, match="exemplars"):
            nearest(exemplars, radius=0.5)

    @pytest.mark.parametrize("radius", [0, -1, 2.5, float("nan")])
    def test_radius_outside_its_range_is_refused(self, radius: float) -> None:
        with pytest.raises(SettingsError, match="radius"):
            nearest(EXEMPLARS, radius=radius)


class TestVectorized:
    @pytest.mark.parametrize("form", [list, np.array, pa.array])
    def test_with_a_label_truth_values_become_votes(self, form: type) -> None:
        @vectorized("science")
        def long_text(items: ItemBatch) -> object:
            """Long."""
            return form([len(text) > 3 for text in items.texts])

        assert (long_text.name, long_text.description, long_text.labels) == ("long_text", "Long.", ("science",))
        assert votes(long_text, "atom", "at") == [2, -1]

    def test_without_a_label_names_and_numbers_are_votes(self) -> None:
        @vectorized()
        def by_length(items: ItemBatch) -> list[object]:
            return [("sports", np.int64(1), ABSTAIN)[len(text)] for text in items.texts]

        assert votes(by_length, "", "a", "ab") == [0, 1, -1]

    def test_columns_for_pyarrow_and_metadata(self) -> None:
        @vectorized("politics")
        def from_source(items: ItemBatch) -> list[bool]:
            assert items.text_array.to_pylist() == items.texts
            assert items.class_id("politics") == CLASSES.index("politics")
            return [row.get("desk") == "pol" for row in items.metadata]

        assert votes(from_source, "a", "b", metadata=['{"desk": "pol"}', "{}"]) == [1, -1]

    def test_vectors_only_when_asked_for(self) -> None:
        @vectorized("sports")
        def reads_vectors(items: ItemBatch) -> object:
            return items.vectors[:, 0] > 0

        outcome = call_function(reads_vectors, batch(["a"]))
        assert outcome.faults[0].fault == "raised"
        assert "vectors=True" in outcome.faults[0].detail
