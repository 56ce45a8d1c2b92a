"""The JavaScript client against the service: each script runs in the browser and in Node."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Protocol

import pytest

from app.audio.encoders import FORMATS
from app.schemas.dialogue import DialogueBody, TurnParameters
from app.schemas.reference import ReferenceRecording
from app.schemas.speech import SpeechBody
from app.schemas.voices import VoiceDetails, VoiceStored
from tests.browser.page import Page
from tests.browser.test_modules import evaluate
from tests.integration.shared import KEY, Server
from tests.tools import need

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "js"

_COLLECT = """
const collect = async (parameters, options) => {
  const samples = [];
  for await (const each of client.speak(parameters, options)) samples.push(...each);
  return samples;
};
"""

_SPEAK = """
let engine = null;
const spoken = await collect({ text: "Hello there.", seed: 7 }, { onStatus: (status) => (engine = status.engine) });
const marks = [];
await collect({ text: "Hello there.", seed: 7, timestamps: true }, { onMark: (mark) => marks.push(mark) });
const response = await client.generate({ text: "Hello there.", seed: 7, format: "raw_pcm" });
const whole = new Int16Array(await response.arrayBuffer());
const worst = spoken.reduce((most, sample, at) => Math.max(most, Math.abs(32767 * sample - whole[at])), 0);
return [engine, spoken.length, whole.length, worst, marks[0].words.map((word) => word.text)];
"""

_GROWING = """
async function* written() {
  yield "Once upon a ti";
  yield "me. Then it ended";
  yield ". Yes.";
}
const grown = await collect({ text: written(), seed: 7 });
const failed = await collect({ text: (async function* () { yield "Once. "; throw new Error("the LLM failed"); })() })
  .catch((error) => error.message);
return [grown.length, failed];
"""

_LEAVE = """
let left = 0;
for await (const samples of client.speak({ text: "x".repeat(2000) })) {
  left += samples.length;
  break;
}
const stop = new AbortController(), { signal } = stop;
const aborted = await (async () => {
  for await (const samples of client.speak({ text: "x".repeat(2000) }, { signal })) stop.abort(new Error("stopped"));
})().catch((error) => error.message);
return [left, aborted];
"""

_ACTIVE = """
const { workers } = await (await client.call("/system-status")).json();
return workers.reduce((sum, { active }) => sum + active, 0);
"""

_ERRORS = """
const told = (error) => [error.name, error.status ?? null, error.code ?? null, error.message];
const caught = (promise) => promise.then(() => null, told);
const stranger = new CsmClient({ url: URL, key: "wrong" });
const refused = await new Promise((resolve) => {
  const socket = stranger.converse({ onEvent: resolve, onRefused: (error) => (socket.close(), resolve(told(error))) });
});
return [
  await caught(collect({ text: "Hi.", voice_id: "nobody.wav" })),
  await caught(collect({ text: "Hi.", top_k: -1 })),
  await caught(stranger.speak({ text: "Hi." }).next()),
  refused,
];
"""

_NOBODY = """
const told = (error) => [error.name, error.message];
return [await client.generate({ text: "Hi." }).catch(told), await collect({ text: "Hi." }).catch(told)];
"""

_VOICES = """
const file = new Blob([Uint8Array.from(atob(RECORDING), (letter) => letter.charCodeAt(0))]);
const stored = await client.addVoice(file, { voiceId: "js client.wav", transcript: "One." });
const replaced = await client.addVoice(file, { voiceId: "js client.wav", replace: true });
const details = await client.voice("js client.wav");
const listed = (await client.voices()).includes("js client.wav");
await client.deleteVoice("js client.wav");
const left = (await client.voices()).includes("js client.wav");
return [stored.voice_id, replaced.voice_id, details.has_transcript, listed, left];
"""

_CONVERSE = """
return await new Promise((resolve) => {
  const audio = [];
  const socket = client.converse({
    onEvent: (event) => {
      if (event.type === "session.created") {
        const content = [{ type: "input_text", text: "Hello." }];
        socket.send("conversation.item.create", { item: { type: "message", role: "user", content } });
        socket.send("response.create");
      }
      if (event.type === "response.output_audio.delta") audio.push(event.delta);
      if (event.type === "response.done") {
        socket.close();
        resolve([event.response.status, audio.join("").length > 0]);
      }
    },
  });
});
"""


class Runtime(Protocol):
    def __call__(self, script: str, /) -> Any: ...


@pytest.fixture(params=["browser", "node"])
def run(request: pytest.FixtureRequest, server: Server) -> Runtime:
    """Runs the body of an async function, which has `client`, and returns what it returns."""
    if request.param == "node":
        node = found_node()

        def run_in_node(script: str) -> Any:
            module = json.dumps((PACKAGE / "src" / "index.js").as_uri())
            return run_node(node, f"const URL = {json.dumps(server.url)};" + body(script, module))

        return run_in_node
    page: Page = request.getfixturevalue("page")
    return lambda script: evaluate(page, "const URL = location.origin;" + body(script, '"/static/client/index.js"'))


def body(script: str, module: str) -> str:
    made = f"const client = new CsmClient({{ url: URL, key: {json.dumps(KEY)} }});"
    return f"const {{ CsmClient }} = await import({module}); {made} {_COLLECT} {script}"


def found_node() -> str:
    """Node with WebSockets; skips the test if there is none, or an older one."""
    node = need("node")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    oldest = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))["engines"]["node"].removeprefix(">=")
    if numbers(told.strip().removeprefix("v")) < numbers(oldest):
        pytest.skip(f"Node {told.strip()} is older than {oldest}, the first with a WebSocket")
    return node


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def run_node(node: str, script: str) -> Any:
    program = f"const main = async () => {{ {script} }}; console.log(JSON.stringify(await main()));"
    flags = ["--experimental-websocket", "--input-type=module", "-"]
    return json.loads(output([node, *flags], input=program))


def output(command: list[str], **options: Any) -> str:
    """What a program prints, which must succeed."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def javascript(page: Path, imported: str = "") -> list[str]:
    """The examples of a page, all or those that import from a module."""
    blocks = re.findall(r"^```js\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [each for each in blocks if imported in each]


def test_speech_is_that_of_http(run: Runtime) -> None:
    engine, spoken, whole, worst, words = run(_SPEAK)
    assert engine == "fake"
    assert spoken == whole > 0
    assert worst < 1
    assert words == ["Hello", "there."]


def test_a_text_is_spoken_while_it_is_written(run: Runtime) -> None:
    grown, failed = run(_GROWING)
    assert grown > 24_000
    assert failed == "the LLM failed"


def test_leaving_ends_the_generation(run: Runtime, server: Server) -> None:
    left, aborted = run(_LEAVE)
    assert 0 < left < 2000 * 1920
    assert aborted == "stopped"
    server.wait_until(lambda: run(_ACTIVE) == 0)


def test_errors_say_what_is_wrong(run: Runtime) -> None:
    unknown, wrong, stranger, refused = run(_ERRORS)
    assert unknown[:3] == ["ServiceError", 404, "unknown_voice"]
    assert wrong[:2] == ["ServiceError", 422]
    assert stranger[:3] == ["ServiceError", 401, "unauthorized"]
    assert refused[:3] == ["ServiceError", 401, "unauthorized"]


def test_nobody_listens() -> None:
    module = json.dumps((PACKAGE / "src" / "index.js").as_uri())
    found = run_node(found_node(), 'const URL = "http://127.0.0.1:9";' + body(_NOBODY, module))
    assert found == [["NetworkError", "the service does not respond"]] * 2


def test_voices_are_managed(run: Runtime, recording: Path) -> None:
    script = f"const RECORDING = {json.dumps(base64.b64encode(recording.read_bytes()).decode())};"
    assert run(script + _VOICES) == ["js client.wav", "js client.wav", False, True, False]


def test_a_conversation_answers(run: Runtime) -> None:
    assert run(_CONVERSE) == ["completed", True]


# ---- the package


def test_types_name_what_the_module_exports() -> None:
    declared = (PACKAGE / "src" / "index.d.ts").read_text(encoding="utf-8")
    exported = (PACKAGE / "src" / "index.js").read_text(encoding="utf-8")
    names = {name.strip() for group in re.findall(r"export \{([^}]+)\}", exported) for name in group.split(",")}
    assert set(re.findall(r"export (?:class|const|function) (\w+)", declared)) == names


def test_types_have_every_parameter_and_format_of_the_service() -> None:
    declared = (PACKAGE / "src" / "index.d.ts").read_text(encoding="utf-8")

    def members(name: str) -> set[str]:
        (body,) = re.findall(rf"^export interface {name}\b.*?\{{\n(.*?)^\}}", declared, re.MULTILINE | re.DOTALL)
        return set(re.findall(r"^  (\w+)\??:", body, re.MULTILINE))

    options = members("SpeechOptions")
    assert options | members("SpeechParameters") == SpeechBody.model_fields.keys() - {"chunk_overlap_strategy"}
    assert options | members("DialogueParameters") == DialogueBody.model_fields.keys() - {"chunk_overlap_strategy"}
    assert members("DialogueTurn") == TurnParameters.model_fields.keys()
    assert members("Reference") == ReferenceRecording.model_fields.keys()
    assert members("VoiceDetails") == VoiceDetails.model_fields.keys()
    assert members("StoredVoice") == VoiceStored.model_fields.keys()
    (formats,) = re.findall(r"^export type AudioFormat =(.*?);", declared, re.MULTILINE | re.DOTALL)
    assert re.findall(r'"(\w+)"', formats) == list(FORMATS)


def test_the_code_has_the_declared_types() -> None:
    output([need("tsc"), "--project", str(PACKAGE)])


def test_a_tarball_is_installed_and_speaks(server: Server, tmp_path: Path) -> None:
    node, npm = found_node(), need("npm")
    packed = output([npm, "pack", "--json", "--offline", "--pack-destination", str(tmp_path), str(PACKAGE)])
    (archive,) = json.loads(packed)
    written = ("package.json", "README.md", *(f"src/{each.name}" for each in (PACKAGE / "src").iterdir()))
    assert sorted(each["path"] for each in archive["files"]) == sorted(written)
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert not {"dependencies", "devDependencies", "scripts"} & package.keys()
    project = tmp_path / "project"
    project.mkdir()
    flags = ["--offline", "--no-audit", "--no-fund", "--prefix", str(project)]
    output([npm, "install", *flags, str(tmp_path / archive["filename"])])
    (example,) = javascript(PACKAGE / "README.md", "node:")
    (project / "speak.mjs").write_text(example, encoding="utf-8")
    environment = os.environ | {"CSM_URL": server.url, "API_KEY": KEY}
    printed = output([node, "--experimental-websocket", "speak.mjs"], cwd=project, env=environment)
    assert float(re.findall(r"([\d.]+) s of speech", printed)[0]) > 0.5
    assert (project / "speech.mp3").stat().st_size > 1000
