"""What `pisync init-production` prints."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from cli.production import broker, check, layout, place
from cli.production.generate import generate
from cli.production.made import Made
from pisync.errors import ConfigurationError


def run(
    directory: Path, domain: str | None, mosquitto: str | None, *, renew: bool, rotate: list[str]
) -> None:
    """Make what is missing, and say what became of what.

    Raises:
        ConfigurationError: the secrets cannot stand there, or an option is wrong.
    """
    root = directory.absolute()
    told = _told(root / layout.ENVIRONMENT)
    before = told.get("PISYNC_DOMAIN")
    domain = domain or before
    if domain is None:
        raise ConfigurationError("--domain says under which name the system is reached")
    domain = place.check_domain(domain)
    if before not in {None, domain}:
        raise ConfigurationError(
            f"This set-up is reached as {before}: for another name, change PISYNC_DOMAIN in"
            f" {root / layout.ENVIRONMENT}, and run it with --renew, for certificates of that name"
        )
    made = generate(root, domain, _image(mosquitto, told), renew=renew, rotate=rotate)
    _show(root, made)


def _told(path: Path) -> dict[str, str]:
    """What an earlier run was told, as Compose is."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {name: value for name, separator, value in (line.partition("=") for line in lines) if separator}


def _image(mosquitto: str | None, told: Mapping[str, str]) -> broker.Image:
    if mosquitto is not None and mosquitto not in broker.IMAGES:
        raise ConfigurationError(f"--mosquitto must be {' or '.join(broker.IMAGES)}")
    persistence = told.get("MOSQUITTO_PERSISTENCE")
    before = next((name for name, image in broker.IMAGES.items() if image.persistence == persistence), None)
    if mosquitto is not None and before not in {None, mosquitto}:
        raise ConfigurationError(
            f"This set-up is for Mosquitto {before}, whose files another version does not read: --mosquitto"
            " decides it the first time"
        )
    return broker.IMAGES[mosquitto or before or broker.NEWEST]


def show_findings(directory: Path) -> int:
    """Print what is wrong; the exit code, 1 where anything is."""
    found = check.findings(directory.absolute())
    console = Console()
    for finding in found:
        console.print(finding, markup=False, highlight=False, soft_wrap=True)
    if not found:
        console.print(f"Nothing is missing, and nothing expires within {check.EXPIRES_SOON.days} days.")
    return 1 if found else 0


def _show(root: Path, made: Made) -> None:
    console = Console()

    def say(text: str = "") -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for what, paths in (("made", made.new), ("renewed", made.renewed)):
        for path in paths:
            say(f"{what:<8} {path.relative_to(root)}")
    say(f"{len(made.there)} files were there and stay as they are.")
    for path in made.other:
        say(f"{path.relative_to(root)} was changed by hand, and stays as it is.")
    if made.api_key is not None:
        say()
        say("The api's key, for an administrator; it is shown this once:")
        say(f"  {made.api_key}")
    if made.new:
        say()
        say("Next, in the directory with docker-compose.production.yml:")
        say(
            f"  docker compose -f docker-compose.production.yml --env-file {root}/{layout.ENVIRONMENT}"
            " up --build --detach --wait"
        )
