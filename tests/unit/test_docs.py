"""The documents say what the code does: every setting, topic, reason and command is in them."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import api.metrics
import bridge.metrics
import worker.metrics
from api.pages.rendering import NAVIGATION
from api.routes import sync_event
from bench import rows
from cli.main import NAMES
from cli.production import broker, derived
from device_sim import device
from pisync.domain import topics
from pisync.domain.alerts import Rule
from pisync.domain.events import Reason, SyncEvent
from pisync.settings import PREFIX, PROGRAMS, BridgeSettings, CommonSettings, variables

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def settings_tables() -> str:
    """The tables of settings that docs/operations.md holds: of every program, then of one after the other."""
    common = CommonSettings.model_fields
    sections = [settings_table("Every program", common)]
    for command, settings in PROGRAMS.items():
        own = {name: field for name, field in settings.model_fields.items() if name not in common}
        sections.append(settings_table(f"`pisync {command}`", own))
    return "\n\n".join(sections)


def settings_table(title: str, fields: Mapping[str, FieldInfo]) -> str:
    lines = [f"### {title}", "", "| variable | default | what |", "|---|---|---|"]
    for name, field in fields.items():
        default = field.default
        if default is PydanticUndefined:
            default_text = "made up at start"
        elif default in {None, (), ""}:
            default_text = "none"
        else:
            default_text = f"`{str(default).lower() if isinstance(default, bool) else default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {default_text} | {field.description} |")
    return "\n".join(lines)


def test_every_setting_is_in_the_operations_document_under_its_program() -> None:
    tables = settings_tables()
    assert tables in (ROOT / "docs/operations.md").read_text(), f"it should hold these tables:\n{tables}"


def metrics_table(registry: CollectorRegistry) -> str:
    """The table of a program's own metrics that docs/operations.md holds."""
    families = registry.collect()
    lines = ["| metric | kind | what |", "|---|---|---|"]
    for family in families:
        if family.name.startswith("pisync_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "registry",
    [
        bridge.metrics.Metrics(BridgeSettings()).registry,
        api.metrics.Metrics().registry,
        worker.metrics.Metrics().registry,
    ],
)
def test_every_metric_is_in_the_operations_document(registry: CollectorRegistry) -> None:
    table = metrics_table(registry)
    assert table in (ROOT / "docs/operations.md").read_text(), f"it should hold this table:\n{table}"


def test_every_reason_and_member_is_in_the_protocol_document() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    assert [reason for reason in Reason if f"| `{reason.value}` |" not in text] == []
    assert [name for name in SyncEvent.__struct_fields__ if f"| `{name}` |" not in text] == []


def test_every_rule_of_alerts_is_in_the_protocol_document() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    assert [rule for rule in Rule if f"| `{rule.value}` |" not in text] == []


@pytest.mark.parametrize(
    "topic",
    [
        topics.sync("{device_id}"),
        topics.receipts("{device_id}"),
        topics.sync("{device_id}", "{token}"),
        topics.receipts("{device_id}", "{token}"),
        topics.commands("{device_id}"),
        topics.command_replies("{device_id}"),
        topics.status("{device_id}"),
        topics.alerts("{device_id}", "{rule}"),
        topics.api_receipts("{api_id}"),
    ],
)
def test_every_topic_is_in_the_protocol_document(topic: str) -> None:
    assert f"| `{topic}` |" in (ROOT / "docs/protocol.md").read_text()


def test_every_command_is_in_the_operations_document() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    assert [name for name in sorted(NAMES) if f"`pisync {name}" not in text] == []


def test_every_variable_in_the_documents_exists() -> None:
    # Compose's own, which no program reads.
    made = derived.environment("/production", "pisync.example.org", (1, 1), broker.IMAGES[broker.NEWEST])
    compose = set(re.findall(rf"(?m)^({PREFIX}[A-Z_]+)=", made))
    for document in DOCUMENTS:
        named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", document.read_text()))
        assert named <= variables() | compose, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_body_that_a_document_sends_is_called_json() -> None:
    sent = [
        command
        for document in DOCUMENTS
        for command in re.findall(r"curl(?:[^\n]*\\\n)*[^\n]*", document.read_text())
        if " -d " in command
    ]
    assert sent
    assert all("-H 'Content-Type: application/json'" in command for command in sent)


def test_every_make_target_is_explained() -> None:
    """`make` alone lists the targets that say what they do; only a step of others need not."""
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    phony = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()
    assert targets == set(phony)
    assert targets - set(re.findall(r"^([a-z]+):.*## \S", text, re.MULTILINE)) == {
        "system",
        "browser",
        "proxies",
    }


# Documents that say where things are, and so go wrong when a file moves.
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md"]
TOP_LEVEL = {path.name for path in ROOT.iterdir()} - {".venv"}


def code_in(text: str) -> list[str]:
    """What stands between backticks on a line, and the lines of indented blocks without their comments."""
    blocks = [line.split("#")[0] for line in text.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [*re.findall(r"`([^`\n]+)`", prose), *blocks]


def paths_in(text: str) -> set[str]:
    """The words of code that look like a file or folder of the tree; topics and `<patterns>` do not."""
    words = {word for code in code_in(text) for word in code.split()}
    return {
        word
        for word in words
        if re.fullmatch(r"[\w./-]+", word) and not word.startswith("pisync/v1/") and not word.startswith("-")
        if ("/" in word and word.split("/")[0] in TOP_LEVEL) or re.search(r"\.(py|md|toml|ya?ml|lua)$", word)
    }


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_file_that_a_guide_names_exists(guide: Path) -> None:
    named = paths_in(guide.read_text())
    assert len(named) > 20
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, f"{guide.name} names {sorted(missing)}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_target_row_and_module_that_a_guide_names_exists(guide: Path) -> None:
    code = "\n".join(code_in(guide.read_text()))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= targets
    for names in re.findall(r'ROWS="([^"]+)"', code):
        assert rows.named(names.split())
    for module in re.findall(r"-m ((?:tests|bench|cli)\S*)", code):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module


def test_the_tree_in_the_architecture_document_has_every_folder_with_code() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    drawn = set(re.findall(r"^    ([\w/]+/) ", text, re.MULTILINE))
    product = {"cli", "bench", "fleet", "bridge", "api", "device_sim", "local_stack", "pisync"}
    with_code = {
        f"{path.parent.relative_to(ROOT)}/"
        for package in product
        for path in [*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.lua")]
    }
    assert with_code - drawn == set()
    assert [folder for folder in drawn if not (ROOT / folder).is_dir()] == []


def test_every_answer_of_a_post_is_in_the_readme() -> None:
    """And 401 and 405, which no route declares; 500 is a defect."""
    (route,) = sync_event.router.routes
    assert isinstance(route, APIRoute)
    answers = {*map(str, route.responses), "401", "405"} - {"500"}
    text = (ROOT / "README.md").read_text()
    assert [answer for answer in sorted(answers) if f"| {answer} |" not in text] == []


def test_the_protocol_document_has_the_times_after_which_to_publish_again() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    assert f"{device.PUBACK_TIMEOUT_S:g} s ± {device.JITTER:.0%}".replace("%", " %") in text
    minutes = device.RECEIPT_TIMEOUT_S / 60
    assert f"**{minutes:g} minutes ± {device.JITTER:.0%}**".replace("%", " %") in text
    assert f"up to {device.PUBACK_TIMEOUT_S_MAX / 60:g} minutes" in text
    assert f"up to {device.RECEIPT_TIMEOUT_S_MAX / 3600:g} hours" in text
    assert f"at most {device.INFLIGHT_MESSAGES_MAX} messages without a receipt" in text


def test_every_page_of_the_navigation_is_in_the_operators_document() -> None:
    document = (ROOT / "docs/operators.md").read_text()
    for place in NAVIGATION:
        assert f"| {place.title} | `{place.path}` |" in document


def test_every_image_that_a_document_shows_is_there_and_small() -> None:
    for document in DOCUMENTS:
        for image in re.findall(r"!\[[^]]*\]\(([^):]+)\)", document.read_text()):
            assert (document.parent / image).stat().st_size < 100_000, image
