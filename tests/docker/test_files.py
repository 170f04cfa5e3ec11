"""What can be said of the files without running them: their linters, and that no secret has a default."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from audio.management import web
from tests.debian import program
from tests.docker.files import CADDYFILE, COMPOSE, DOCKERFILE, OUR_IMAGE, MissingVariableError, example, services
from tests.services import REPOSITORY, product_variables
from tests.watching import rules

BIN = Path(sys.executable).parent
SECRETS = ["SECRET_KEY", "POSTGRES_PASSWORD", "FLOWER_BASIC_AUTH", "METRICS_TOKEN"]


def said(*command: str | Path) -> str:
    """What a linter says; it must agree."""
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_has_no_complaint():
    assert said(BIN / "hadolint", DOCKERFILE) == ""


def test_the_compose_file_fits_the_compose_specification():
    said(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.parametrize("path", [CADDYFILE, REPOSITORY / "deploy" / "Caddyfile-below-a-path"])
def test_the_caddyfiles_are_formatted(path):
    assert said(BIN / "caddy", "fmt", path) == path.read_text()


def test_promtool_has_no_complaint():
    promtool = program("promtool")
    folder = REPOSITORY / "docker" / "prometheus"
    # Without `--syntax-only` the file with the token would have to be there.
    config = ["config", "--syntax-only", str(folder / "prometheus.yml")]
    for words in (config, ["rules", str(folder / "alerts.yml")]):
        done = subprocess.run(
            [promtool.path, "check", *words], env=promtool.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout + done.stderr


# What the series of a server that was just started are, minute by minute, and the alert that they end in.
BURSTS = [
    ('sercuescribe_chunks_rejected_total{code="storage_full"}', "0 0 7 7 7", "SercueScribeChunksLost", "storage_full"),
    ('sercuescribe_recordings{state="failed"}', "0 0 1 1 1", "SercueScribeRecordingsFail", None),
]


@pytest.mark.parametrize(("series", "values", "alert", "code"), BURSTS)
def test_one_burst_on_a_new_server_fires(tmp_path, series, values, alert, code):
    labels = {"severity": "critical", "code": code} if code else {"severity": "warning"}
    (rule,) = [rule for rule in rules() if rule["alert"] == alert]
    said = {
        key: text.replace("{{ $labels.code }}", str(code)).replace("{{ $value }}", "1")
        for key, text in rule["annotations"].items()
    }
    fired = {"eval_time": "4m", "alertname": alert, "exp_alerts": [{"exp_labels": labels, "exp_annotations": said}]}
    quiet = {"eval_time": "1m", "alertname": alert, "exp_alerts": []}
    given = [{"series": series, "values": values}]
    test = {"interval": "1m", "input_series": given, "alert_rule_test": [quiet, fired]}
    alerts = str(REPOSITORY / "docker" / "prometheus" / "alerts.yml")
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [alerts], "tests": [test]}))
    promtool = program("promtool")
    command = [str(promtool.path), "test", "rules", str(tmp_path / "test.yml")]
    done = subprocess.run(command, env=promtool.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_built_once():
    known = yaml.safe_load(COMPOSE.read_text())["services"]
    ours = {name for name, fields in known.items() if fields["image"] == OUR_IMAGE}
    assert {name for name in ours if "build" in known[name]} == {"check"}
    assert {known[name].get("pull_policy") for name in ours} == {"never"}


@pytest.mark.parametrize("service", ["web", "worker", "jobs", "beat", "migrate"])
def test_every_variable_of_the_settings_can_stand_in_env(service):
    values = {name: f"value-of-{name}" for name in product_variables()}
    environment = services(example() | values)[service].environment
    assert {name: environment[name] for name in values} == values


def test_without_more_in_env_the_services_find_each_other():
    environment = services(example() | {"POSTGRES_PASSWORD": "word", "DOMAIN": "example.org"})["web"].environment
    assert environment["DATABASE_URL"] == "postgresql://scribe:word@database:5432/scribe"
    assert (environment["ALLOWED_HOSTS"], environment["HOST"], environment["PORT"]) == (
        "example.org",
        "0.0.0.0",
        "8000",
    )


def test_monitoring_is_a_profile_with_what_it_reads():
    assert services(example(), "monitoring").keys() - services(example()).keys() == {"prometheus", "grafana"}
    known = yaml.safe_load(COMPOSE.read_text())
    for name in ("prometheus", "grafana"):
        sources = [volume.split(":")[0] for volume in known["services"][name]["volumes"]]
        assert all((REPOSITORY / source).exists() for source in sources if source.startswith("."))
        assert {source for source in sources if not source.startswith(".")} <= known["volumes"].keys()


@pytest.mark.parametrize("name", [*SECRETS, "DOMAIN"])
def test_what_has_no_default_is_asked_for(name):
    with pytest.raises(MissingVariableError, match=f"{name}: set it in .env, as .env.example shows"):
        services(example() | {name: ""})


def test_the_example_has_no_more_than_compose_and_the_settings_read():
    assert set(example()) <= product_variables() | {"DOMAIN", "POSTGRES_PASSWORD"}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_example_is_rejected_at_the_start(name, tmp_path):
    good = {"SECRET_KEY": "s" * 50, "POSTGRES_PASSWORD": "good", "FLOWER_BASIC_AUTH": "operator:good"}
    good |= {"METRICS_TOKEN": "good"}
    check = services(example() | good | {name: example()[name]})["check"]
    folders = {"DATA_DIR": str(tmp_path), "AUDIO_STORAGE_PATH": str(tmp_path / "audio")}
    run = subprocess.run(
        [sys.executable, *check.command[1:]],
        cwd=REPOSITORY,
        env=check.environment | folders | {"PATH": os.defpath},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.count("(sercuescribe.E005)") == 1
    assert example()[name] not in run.stderr


def test_nothing_starts_before_the_settings_were_looked_at():
    known = services(example())
    for name in known:
        waits_for = {name}
        while more := {other for each in waits_for for other in known[each].depends_on} - waits_for:
            waits_for |= more
        assert "check" in waits_for or name == "redis"  # which keeps no secret


def test_every_folder_that_the_image_copies_is_there_and_sent_to_the_engine():
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sources = [source for stage in stages() for copied, _ in copies(stage) for source in copied]
    assert len(sources) >= 15
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert any(f"!{part}" in ignored for part in (source, source.split("/")[0]))


def stages() -> list[str]:
    """The stages of the Dockerfile."""
    return re.split(r"^(?=FROM )", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]


def copies(stage: str) -> list[tuple[list[str], str]]:
    """What a stage copies from the repository, and where to."""
    found = re.findall(r"^COPY (?!--from)(.+) (\S+)$", stage, re.MULTILINE)
    return [(sources.split(), target) for sources, target in found]


def test_the_documentation_is_built_from_what_its_stage_copies(tmp_path):
    (stage,) = [stage for stage in stages() if " AS guide\n" in stage]
    for sources, target in copies(stage):
        for source in sources:
            origin, place = REPOSITORY / source, tmp_path / target
            place.mkdir(parents=True, exist_ok=True)
            if origin.is_dir():
                shutil.copytree(origin, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, place)
    (command,) = re.findall(r"^RUN .*-m (mkdocs build)$", stage, re.MULTILINE)
    subprocess.run([sys.executable, "-m", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    (folder,) = re.findall(r"^COPY --from=guide /build/(\S+) site$", DOCKERFILE.read_text(), re.MULTILINE)
    assert (tmp_path / folder / "guide" / "protocol" / "index.html").exists()


def test_the_image_installs_as_make_does():
    """`make test` has run that line, with the same requirements."""
    (makefile,) = re.findall(r"^PIP_INSTALL := \$\(PYTHON\) -m pip install (.*)$", makefile_text(), re.MULTILINE)
    installed = DOCKERFILE.read_text().replace("\\\n", " ")
    assert {"--require-hashes", "--disable-pip-version-check"} <= set(makefile.split())
    assert re.search(r"-m pip install .*--require-hashes -r base\.txt", installed)


def makefile_text() -> str:
    return (REPOSITORY / "Makefile").read_text()


def test_no_port_but_the_proxys_is_open_to_others():
    known = yaml.safe_load(COMPOSE.read_text())["services"]
    published = {name: fields["ports"] for name, fields in known.items() if "ports" in fields}
    assert published.keys() == {"proxy", "flower", "prometheus", "grafana"}
    others = [port for name, ports in published.items() if name != "proxy" for port in ports]
    assert all(port.startswith("127.0.0.1:") for port in others)


def test_whoever_stops_gets_the_time_that_it_needs():
    known = services(example())
    assert known["web"].stop_grace_seconds > sum(seconds for _, seconds in web.STOP)
    assert known["proxy"].stop_grace_seconds > known["web"].stop_grace_seconds
