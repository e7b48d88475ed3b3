"""Public-domain novels as training text: cleaned, split into chapters, with the end of every book held out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PARAGRAPH = "\n\n"

_HEADING = re.compile(
    r"^(?:(?:CHAPTER|Chapter|ADVENTURE|Adventure|LETTER|Letter|PART|Part|BOOK|Book|VOLUME)\b.{0,60}"
    r"|THE ADVENTURE OF.{0,60}|[IVXL]+\.(?: .{0,50})?)$"
)
# What transcribers added to the novels: notes, plates, errata, tables of contents, names of files and sites.
_NOT_PROSE = re.compile(
    r"\[(?:Illustration|Footnote|_?All rights|\d+\]$)|=>|https?://|www\.|etext|e-text|\bASCII\b|Project Gutenberg"
    r"|Proofread|HTML|PG Standards|\S {4,}\d+$|(?: \.){4,}|^[*\s.]+$"
)


@dataclass(frozen=True)
class Book:
    """One novel: chapters to train on, and the prose at its end that no model has seen."""

    name: str
    chapters: tuple[str, ...]
    held_out: str

    def __post_init__(self) -> None:
        if not self.chapters:
            raise ValueError(f"{self.name}: a book needs at least one chapter to train on")


def clean_paragraph(paragraph: str) -> str:
    """Return the paragraph on one line without typewriter's emphasis; empty if it is not the novel's own text."""
    text = re.sub(r"\s+", " ", paragraph.replace("_", "")).strip()
    text = re.sub(r" ?\[\d+\]", "", text)
    is_foreign = _NOT_PROSE.search(paragraph.strip()) is not None
    return "" if is_foreign or not text else text


def split_chapters(paragraphs: list[str]) -> tuple[str, ...]:
    """Join paragraphs into chapters; a heading opens a new one. Headings in a row (tables of contents) are dropped."""
    chapters: list[list[str]] = [[]]
    for paragraph in paragraphs:
        if _HEADING.match(paragraph):
            if len(chapters[-1]) < 2:
                chapters.pop()
            chapters.append([])
        chapters[-1].append(paragraph)
    return tuple(PARAGRAPH.join(chapter) for chapter in chapters if chapter)


def read_book(path: Path, held_out_share: float = 0.025) -> Book:
    """Read one novel.

    Args:
        path: A text file in UTF-8 with paragraphs separated by blank lines.
        held_out_share: Share of the characters, from the end, that is kept out of training.

    Raises:
        ValueError: If the file leaves nothing to train on.
    """
    raw = path.read_text(encoding="utf-8").split(PARAGRAPH)
    paragraphs = [text for text in map(clean_paragraph, raw) if text]
    remaining = held_out_share * sum(map(len, paragraphs))
    cut = len(paragraphs)
    while cut > 1 and remaining > 0:
        cut -= 1
        remaining -= len(paragraphs[cut])
    return Book(path.stem, split_chapters(paragraphs[:cut]), PARAGRAPH.join(paragraphs[cut:]))


def read_books(folder: Path, held_out_share: float = 0.025) -> list[Book]:
    """Read every ``*.txt`` in a folder, in the order of the names.

    Raises:
        FileNotFoundError: If the folder holds no text.
    """
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"no *.txt in {folder}")
    return [read_book(path, held_out_share) for path in paths]


def split_passages(text: str, characters: int = 2000) -> list[str]:
    """Cut a text between paragraphs into passages that reach a length; what is left over at the end is dropped."""
    passages: list[str] = []
    pending: list[str] = []
    for paragraph in text.split(PARAGRAPH):
        pending.append(paragraph)
        if sum(map(len, pending)) >= characters:
            passages.append(PARAGRAPH.join(pending))
            pending = []
    return passages


def held_out_passages(books: list[Book], characters: int = 600) -> list[str]:
    """Return one passage from the middle of what was held out of each book, ended at a full stop.

    Args:
        books: What ``read_books`` returned.
        characters: Length from which a passage may end; it is at most twice as long.
    """
    passages: list[str] = []
    for book in books:
        paragraphs = book.held_out.split(PARAGRAPH)
        text = PARAGRAPH.join(paragraphs[len(paragraphs) // 2 :])[: 2 * characters]
        end = text.find(". ", characters)
        passages.append(text if end < 0 else text[: end + 1])
    return [passage for passage in passages if passage]
