"""Reject the words that the language guide excludes, and name the replacement; scripts/words.toml is the list.

    python -m scripts.words                 check the tree (`make lint`)
    python -m scripts.words PATH ...        check these files and folders
    python -m scripts.words --commit FILE   check a commit message; `-` reads it from standard input
    python -m scripts.words --count         print the findings per 1,000 lines by root folder

A text is split into words at punctuation, underscores and CamelCase. One pass over a file therefore covers names,
comments, docstrings and literals, and a phrase is found across a line break. The path of a file is checked as well.

Exempt are:
* the phrases and the paths that scripts/words.toml lists with a reason;
* a line with the comment `lint-words: quotes SOURCE`, or the next line where the comment has a line to itself;
* a block quotation in Markdown or in a commit message whose last line names the source: `> — RFC 5280, 4.1.2.2`;
* names in backquotes in a commit message, which may have to name what it renames.
"""

import argparse
import fnmatch
import itertools
import os
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("words.toml")
SUFFIXES = {".c", ".css", ".hcl", ".html", ".in", ".md", ".py", ".sh", ".sql", ".toml", ".typ", ".yaml", ".yml"}
NAMES = {"Makefile", "run"}
"""Files without a suffix whose text is checked; of all others only the path is."""

Phrase = tuple[str, ...]

# No words: the escape in "\nword" and the prefix of an adjacent literal, as in `"one " f"phrase"`.
_NO_WORD = r"""\\[a-z]|\b[rbf]{1,2}(?=["'])"""
_WORD = re.compile(rf"{_NO_WORD}|([A-Z]+(?![a-z\u00df-\u024f])|[A-Z]?[a-z\u00df-\u024f]+)")
# What may separate the words of one phrase: spaces, underscores, hyphens, and at a line break the marks of comments,
# quotations and adjacent string literals.
_GAP = re.compile(rf"""(?:[\s_"'#>*`-]|//|{_NO_WORD})*""")
_MARKER = re.compile(r"lint-words: quotes \S")
_MARKER_LINE = re.compile(r"\s*(?:#|--|//|/\*|<!--)\s*lint-words: quotes \S")
_QUOTATION = re.compile(r"\s*>")
_SOURCE = re.compile(r"\s*>\s*(?:—|--) ?\S")
_CODE_SPAN = re.compile(r"`[^`\n]+`")
_SCISSORS = re.compile(r"^# -+ >8 -+$.*", re.MULTILINE | re.DOTALL)
_GIT_COMMENT = re.compile(r"^#.*", re.MULTILINE)


def split(text: str) -> Phrase:
    """Return the words of a text in lower case: `HttpsServer_port` gives https, server, port."""
    return tuple(match[0].lower() for match in _matches(text))


def _matches(text: str) -> list[re.Match[str]]:
    return [match for match in _WORD.finditer(text) if match[1]]


@dataclass(frozen=True)
class WordList:
    """What scripts/words.toml says."""

    replacements: Mapping[Phrase, Sequence[str]]
    allowed_phrases: frozenset[Phrase] = frozenset()
    exempt_paths: frozenset[str] = frozenset()

    @cached_property
    def by_first_word(self) -> dict[str, list[Phrase]]:
        """Return the rejected and allowed phrases by their first word, longest first."""
        found: dict[str, list[Phrase]] = defaultdict(list)
        for phrase in sorted({*self.replacements, *self.allowed_phrases}, key=len, reverse=True):
            found[phrase[0]].append(phrase)
        return dict(found)


@dataclass(frozen=True)
class Finding:
    """A rejected phrase in a line of a file."""

    path: str
    line: int
    phrase: Phrase
    replacements: tuple[str, ...]

    def __str__(self) -> str:
        use = " or ".join(f'"{one}"' for one in self.replacements)
        return f'{self.path}:{self.line}: "{" ".join(self.phrase)}": use {use}'


def load(file: Path) -> WordList:
    """Return the list.

    Raises:
        ValueError: a phrase has no replacement, or is both rejected and allowed.
    """
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    replacements = {split(phrase): tuple(use) for phrase, use in table["replacements"].items()}
    allowed = frozenset(split(phrase) for phrase in table["allowed_phrases"])
    if incomplete := [" ".join(phrase) for phrase, use in replacements.items() if not use or phrase in allowed]:
        raise ValueError(f"{file.name}: no replacement, or allowed as well: {', '.join(incomplete)}")
    return WordList(replacements, allowed, frozenset(table["exempt_paths"]))


def find_phrases(text: str, words: WordList) -> Iterator[tuple[int, Phrase]]:
    """Yield the offset and the words of each rejected phrase; of several at one place the longest counts."""
    matches = _matches(text)
    tokens = [match[0].lower() for match in matches]
    starts, end = words.by_first_word, 0
    for position, token in enumerate(tokens):
        if token not in starts or position < end:
            continue
        for phrase in starts[token]:
            last = position + len(phrase)
            if tuple(tokens[position:last]) == phrase and _is_connected(text, matches[position:last]):
                end = last
                if phrase not in words.allowed_phrases:
                    yield matches[position].start(), phrase
                break


def _is_connected(text: str, matches: Sequence[re.Match[str]]) -> bool:
    pairs = itertools.pairwise(matches)
    return all(_GAP.fullmatch(text, left.end(), right.start()) for left, right in pairs)


def exempt_lines(lines: Sequence[str], *, markdown: bool) -> set[int]:
    """Return the numbers of the lines that quote a named source; the first line is 1."""
    exempt: set[int] = set()
    block: list[int] = []
    for number, line in enumerate(lines, 1):
        if _MARKER.search(line):
            exempt.add(number + 1 if _MARKER_LINE.match(line) else number)
        if markdown and _QUOTATION.match(line):
            block.append(number)
            if _SOURCE.match(line):
                exempt.update(block)
        else:
            block = []
    return exempt


def check_text(path: str, text: str, words: WordList, *, markdown: bool = False) -> Iterator[Finding]:
    """Yield the findings in a text."""
    exempt = exempt_lines(text.split("\n"), markdown=markdown)
    number, counted = 1, 0
    for offset, phrase in find_phrases(text, words):
        number, counted = number + text.count("\n", counted, offset), offset
        if number not in exempt:
            yield Finding(path, number, phrase, tuple(words.replacements[phrase]))


def check_commit(name: str, message: str, words: WordList) -> list[Finding]:
    """Return the findings in a commit message, without what git itself wrote into it."""
    message = _GIT_COMMENT.sub("", _SCISSORS.sub("", message))
    message = _CODE_SPAN.sub(lambda match: "`" * len(match[0]), message)
    return list(check_text(name, message, words, markdown=True))


def files(root: Path) -> Iterator[str]:
    """Yield the path of each file below `root` that its .gitignore does not name."""
    ignore = root / ".gitignore"
    patterns = ignore.read_text(encoding="utf-8").split() if ignore.exists() else []
    ignored = re.compile("|".join(fnmatch.translate(one.rstrip("/")) for one in (".git", *patterns)))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not ignored.match(name))
        for name in sorted(names):
            if not ignored.match(name):
                yield Path(folder, name).relative_to(root).as_posix()


def check_file(root: Path, path: str, words: WordList) -> list[Finding]:
    """Return the findings in the path of a file and in its text."""
    if path in words.exempt_paths:
        return []
    found = [Finding(path, 1, phrase, tuple(words.replacements[phrase])) for _, phrase in find_phrases(path, words)]
    if _is_text(path):
        found += check_text(path, _read(root, path), words, markdown=path.endswith(".md"))
    return found


def check_tree(root: Path, words: WordList) -> list[str]:
    """Return the findings, and each exempt path that does not exist."""
    problems = [str(found) for path in files(root) for found in check_file(root, path, words)]
    problems += [
        f"{LIST.parent.name}/{LIST.name}: exempt path {path} does not exist: remove it from exempt_paths"
        for path in sorted(words.exempt_paths)
        if not (root / path).exists()
    ]
    return problems


def check_paths(root: Path, paths: Iterable[str], words: WordList) -> list[str]:
    """Return the findings in these files and folders."""
    wanted = [Path(os.path.relpath(path, root)).as_posix() for path in paths]
    chosen = [path for path in files(root) if any(one in {".", path} or path.startswith(f"{one}/") for one in wanted)]
    return [str(found) for path in chosen for found in check_file(root, path, words)]


def count(root: Path, words: WordList) -> str:
    """Return a Markdown table of the findings by root folder."""
    lines: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    for path in files(root):
        folder = path.partition("/")[0] if "/" in path else "(root)"
        findings[folder] += len(check_file(root, path, words))
        if _is_text(path) and path not in words.exempt_paths:
            lines[folder] += _read(root, path).count("\n")
    rows = [(folder, lines[folder], findings[folder]) for folder in sorted(findings)]
    table = ["| folder | lines | findings | per 1,000 lines |", "|---|---:|---:|---:|"]
    for name, size, found in [*rows, ("total", lines.total(), findings.total())]:
        table.append(f"| {name} | {size} | {found} | {1000 * found / max(size, 1):.1f} |")
    return "\n".join(table)


def _read(root: Path, path: str) -> str:
    return (root / path).read_text(encoding="utf-8")


def _is_text(path: str) -> bool:
    name = Path(path)
    return name.suffix in SUFFIXES or name.name in NAMES


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT, list_file: Path = LIST) -> int:
    """Print the findings and return the exit status: 1 where there is a finding."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.words", description="Reject the words of scripts/words.toml"
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="check these files and folders")
    parser.add_argument("--commit", metavar="FILE", help="check a commit message; - reads standard input")
    parser.add_argument("--count", action="store_true", help="print the findings per 1,000 lines by root folder")
    options = parser.parse_args(arguments)
    if missing := [path for path in options.paths if not Path(path).exists()]:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    words = load(list_file)
    if options.count:
        sys.stdout.write(count(root, words) + "\n")
        return 0
    if options.commit:
        is_input = options.commit == "-"
        message = sys.stdin.read() if is_input else Path(options.commit).read_text(encoding="utf-8")
        found = [str(one) for one in check_commit("commit message" if is_input else options.commit, message, words)]
    elif options.paths:
        found = check_paths(root, options.paths, words)
    else:
        found = check_tree(root, words)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
