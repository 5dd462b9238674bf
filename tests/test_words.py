"""The check of words finds each listed word wherever it is written, and nothing else."""

import io

import pytest

from scripts.words import LIST, ROOT, WordList, check_file, check_text, files, load, main, split

WORDS = load(LIST)

# The words as the language guide lists them.
GUIDE = [
    *("anew", "whoever", "whatever", "nobody", "somebody", "told", "tells", "mend", "mended", "thief", "stranger"),
    *("wall", "walls", "door", "doors", "front", "fronts", "farewell", "doomed", "stands"),
]
PHRASES = [
    *("by itself", "of its own", "opens nothing", "lies under", "does its part", "on record", "put on record"),
    *("looked at", "from then on", "at hand", "what became of", "goes on", "there is none"),
]
REJECTED = sorted(" ".join(phrase) for phrase in WORDS.replacements)

LIST_FILE = """[exempt_paths]
{exempt}
[allowed_phrases]
"in front of" = "a position"
"AcmeFrontDoor" = "a product of Acme"
[replacements]
"front" = ["listener"]
"door" = ["endpoint", "gateway"]
"by itself" = ["automatically"]
"""


def rejected(text: str, *, markdown: bool = False) -> list[tuple[int, str]]:
    return [(one.line, " ".join(one.phrase)) for one in check_text("file", text, WORDS, markdown=markdown)]


@pytest.fixture
def run(tmp_path, capsys):
    """Return a function that checks a small tree and returns the exit status and the lines printed."""

    def check(tree: dict[str, str] | None = None, *arguments: str, exempt: str = "") -> tuple[int, list[str]]:
        root, list_file = tmp_path / "root", tmp_path / "words.toml"
        for path, text in (tree or {}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        list_file.write_text(LIST_FILE.format(exempt=exempt))
        status = main(arguments, root=root, list_file=list_file)
        return status, capsys.readouterr().out.splitlines()

    return check


def test_the_list_has_every_word_of_the_guide():
    assert {split(phrase) for phrase in [*GUIDE, *PHRASES]} <= WORDS.replacements.keys()


@pytest.mark.parametrize("phrase", REJECTED)
def test_each_word_is_rejected_wherever_it_is_written(phrase):
    snake = phrase.replace(" ", "_")
    camel = phrase.title().replace(" ", "")
    for text in (
        f"def {snake}(): ...",
        f"def test_{snake}_rejects(): ...",
        f"self._{snake}2 = 1",
        f"{snake.upper()} = 1",
        f"class Https{camel}: ...",
        f"class KMIP{camel}Error: ...",
        f"x = 1  # the key, {phrase}.",
        f'"""Return ({phrase})."""',
        f"raise OSError('{phrase.capitalize()}: {{reason}}')",
        f'"first line\\n{phrase}"',
        f"* **{phrase}** in `docs`",
        f"-- {phrase}\nselect 1",
    ):
        assert rejected(text) == [(1, phrase)], text


@pytest.mark.parametrize("replacement", sorted({one for use in WORDS.replacements.values() for one in use}))
def test_no_replacement_is_rejected_itself(replacement):
    assert rejected(replacement) == []


@pytest.mark.parametrize(
    "word",
    [
        *("firewall", "outdoor", "frontend", "mentioned", "understands", "toldo", "storefront", "wallet", "backdoor"),
        *("recommended", "DEBIAN_FRONTEND", "doorkeeper", "frontier", "handshake", "standalone"),
        *("in front of a proxy", "wall-clock time", "wall_clock", "the front end", "on recorded events", "kept by its"),
        *("of its", "at handover", "put", "goes", "open, nothing", '["by", "itself"]', "a key of its own tenant"),
    ],
)
def test_ordinary_words_are_accepted(word):
    assert rejected(word) == []


@pytest.mark.parametrize(
    "text",
    [
        "it retries by\nitself",
        "    # it retries by\n    # itself",
        "-- it retries by\n-- itself",
        "> it retries by\n> itself",
        'text = "it retries by "\n    f"itself"',
        "it retries by *itself*",
    ],
)
def test_a_phrase_is_found_across_a_line_break(text):
    assert rejected(text, markdown=True) == [(1, "by itself")]


def test_the_longest_phrase_is_reported_once():
    assert rejected("it was put on record\nand told apart") == [(1, "put on record"), (2, "told apart")]


def test_a_line_that_quotes_a_source_is_exempt():
    quoted = 'TEXT = "nobody"  # lint-words: quotes RFC 5280, 4.2\nOTHER = "nobody"\n'
    assert rejected(quoted) == [(2, "nobody")]
    next_line = '# lint-words: quotes RFC 5280, 4.2\nTEXT = "nobody"\nOTHER = "nobody"\n'
    assert rejected(next_line) == [(3, "nobody")]
    assert rejected("<!-- lint-words: quotes the request of ACME -->\nNobody may.\n", markdown=True) == []
    assert rejected('TEXT = "nobody"  # lint-words: quotes\n') == [(1, "nobody")]


def test_a_block_quotation_is_exempt_only_with_its_source():
    quotation = "> Nobody may read\n> whatever it is.\n"
    assert rejected(f"{quotation}> — NIST SP 800-57, 5.3\n\nNobody.\n", markdown=True) == [(5, "nobody")]
    assert rejected(quotation, markdown=True) == [(1, "nobody"), (2, "whatever")]
    assert rejected(f"{quotation}> — NIST SP 800-57, 5.3\n") != []


def test_findings_name_file_line_and_replacement(run):
    tree = {"vault/keys.py": "x = 1\n\nclass Door:\n", "README.md": "in front of it, the front\n"}
    assert run(tree) == (
        1,
        ['README.md:1: "front": use "listener"', 'vault/keys.py:3: "door": use "endpoint" or "gateway"'],
    )
    assert run({"vault/keys.py": "x = 1\n", "README.md": "in front of it\n"}) == (0, [])


@pytest.mark.parametrize("suffix", ["py", "md", "sql", "hcl", "yaml", "yml", "toml", "html", "css", "sh"])
def test_all_kinds_of_text_are_checked(run, suffix):
    assert run({f"file.{suffix}": "a door\n"}) == (1, [f'file.{suffix}:1: "door": use "endpoint" or "gateway"'])


def test_paths_are_checked_and_the_content_of_data_is_not(run):
    tree = {"front/keys.py": "", "docs/door.png": "", "records.json": '"door"', ".gitignore": "build/\n"}
    status, lines = run(tree | {"build/door.py": "door"})
    assert (status, [line.partition(" ")[0] for line in lines]) == (1, ["docs/door.png:1:", "front/keys.py:1:"])


def test_identifiers_of_third_parties_are_exempt(run):
    assert run({"keys.py": "url = AcmeFrontDoor(acme_front_door)\n"}) == (0, [])
    assert run({"keys.py": "url = AcmeFront\n"})[0] == 1


def test_an_exempt_path_that_does_not_exist_is_reported(run):
    status, [line] = run({"vault/keys.py": "key"}, exempt='"gone.md" = "a quotation"')
    assert status == 1
    assert "exempt path gone.md does not exist: remove it" in line


def test_an_exempt_path_is_not_reported(run):
    assert run({"quoted.md": "door"}, exempt='"quoted.md" = "a quotation"') == (0, [])


def test_only_the_named_folder_is_checked(run, tmp_path):
    tree = {"vault/keys.py": "door", "vaults.py": "door"}
    status, lines = run(tree, str(tmp_path / "root/vault"))
    assert (status, lines) == (1, ['vault/keys.py:1: "door": use "endpoint" or "gateway"'])


def test_a_path_that_does_not_exist_is_rejected(run):
    with pytest.raises(SystemExit):
        run({}, "missing.py")


def test_the_count_is_by_folder(run):
    tree = {"vault/keys.py": "door\n" * 2 + "key\n" * 2, "README.md": "front\n"}
    assert run(tree, "--count") == (
        0,
        [
            "| folder | lines | findings | per 1,000 lines |",
            "|---|---:|---:|---:|",
            "| (root) | 1 | 1 | 1000.0 |",
            "| vault | 4 | 2 | 500.0 |",
            "| total | 5 | 3 | 600.0 |",
        ],
    )


def test_a_commit_message_is_checked(run, tmp_path, monkeypatch):
    message = tmp_path / "COMMIT_EDITMSG"
    message.write_text(
        "vault: rename `Door`\n\nIt retries by\nitself.\n# a door that git wrote\n"
        "# ------------------------ >8 ------------------------\n+front\n"
    )
    expected = (1, [f'{message}:3: "by itself": use "automatically"'])
    assert run({}, "--commit", str(message)) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("vault: close the door\n"))
    assert run({}, "--commit", "-") == (1, ['commit message:1: "door": use "endpoint" or "gateway"'])


@pytest.mark.parametrize("line", ['"door" = []', '"in front of" = ["before"]'])
def test_a_contradictory_list_is_rejected(tmp_path, line):
    file = tmp_path / "words.toml"
    text = LIST_FILE.format(exempt="").replace('"door" = ["endpoint", "gateway"]', line)
    file.write_text(text)
    with pytest.raises(ValueError, match="no replacement, or allowed as well"):
        load(file)


def test_the_tool_itself_is_clean_and_its_tree_has_no_ignored_folder():
    assert check_file(ROOT, "scripts/words.py", WordList(WORDS.replacements, WORDS.allowed_phrases)) == []
    assert not [path for path in files(ROOT) if path.startswith((".venv/", ".git/"))]
