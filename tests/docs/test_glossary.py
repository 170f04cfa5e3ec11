"""docs/glossary.md: its size, and that no term is there twice."""

from tests.docs.text import tables
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "glossary.md"
MOST_TERMS = 40


def test_the_terms_are_few_and_each_is_there_once():
    terms = [term for term, *_ in tables(PAGE, "term")]
    assert 0 < len(terms) <= MOST_TERMS
    assert len(terms) == len(set(terms))


def test_no_term_is_one_of_the_words_that_others_replace():
    rows = tables(PAGE, "term")
    replaced = {word.strip(" `") for *_, words in rows for word in words.split(",")}
    assert not {term for term, *_ in rows} & replaced
