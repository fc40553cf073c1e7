"""Run directories made to do harm: each is refused in a line or two, or loads as what it should be.

Nothing is executed, nothing is written outside the run, and memory stays bounded.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Toolkit, files_in

import toolkit as tk
from toolkit.training.model import load_model
from toolkit.utils.errors import RunError

CONFIG = """\
timesteps: 40
env: {id: CartPole-v1}
algorithm:
  name: dqn
  params: {learning_starts: 8, buffer_size: 100}
  policy_params: {net_arch: [4]}
"""
MARKER = "executed"
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "small.yaml").write_text(CONFIG)
    return tk.train(directory / "small.yaml", directory / "run").directory


@pytest.fixture
def run(trained: Path, working_directory: Path) -> Path:
    """A run in the working directory."""
    return shutil.copytree(trained, working_directory / "run").relative_to(working_directory)


# --- what harm is made of -------------------------------------------------------------------------------------------


class Bomb:
    """Touches the marker when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARKER}",)


def saved(thing: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file, **how)
    return file.getvalue()


BOMBS = {
    **{f"protocol {number}": pickle.dumps(Bomb(), number) for number in (0, 2, 4)},
    "as torch saves it": saved(Bomb()),
    "as torch saved it once": saved(Bomb(), _use_new_zipfile_serialization=False),
}


class Storage:
    """The storage that a fake tensor names: so many numbers of `data/0`, or of another record."""

    def __init__(self, numel: int, key: str = "0") -> None:
        self.numel, self.key = numel, key


class Fake:
    """A tensor of any shape, as torch writes it."""

    def __init__(self, *size: int, stride: tuple[int, ...] = (1,), offset: int = 0, numel: int = 4) -> None:
        self.arguments = Storage(numel), offset, size, stride, False, OrderedDict()  # type: ignore[var-annotated]

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


class Call:
    """A call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


class Pickler(pickle.Pickler):
    """Pickles as torch does."""

    def persistent_id(self, thing: Any) -> Any:
        return ("storage", torch.FloatStorage, thing.key, "cpu", thing.numel) if isinstance(thing, Storage) else None


def pickled(thing: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(thing)
    return file.getvalue()


def pth(content: bytes, storage: bytes = bytes(16), compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file of `torch.save` with that pickle."""
    records = {"data.pkl": content, "byteorder": b"little", "data/0": storage, "version": b"3\n"}
    return zipped({f"archive/{name}": record for name, record in records.items()}, compression)


def zipped(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def overlapping(count: int, size: int) -> bytes:
    """Return a file of `torch.save` with storages each of which holds all that follow: more bytes than it has."""
    content, sizes = bytes(size), []
    for number in reversed(range(count)):
        name = f"archive/data/{number:05}".encode()
        sizes.append((len(content), zlib.crc32(content)))
        fields = b"PK\3\4", 20, 0, 0, 0, 0, sizes[-1][1], len(content), len(content), len(name), 0
        content = struct.pack("<4s5H3L2H", *fields) + name + content
    tensors = []
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        file.write(content)
        archive.start_dir = len(content)
        for number, (length, crc) in enumerate(reversed(sizes)):
            info = zipfile.ZipInfo(f"archive/data/{number:05}")
            info.file_size, info.compress_size, info.CRC = length, length, crc
            info.header_offset = 48 * number
            archive.filelist.append(info)
            tensors.append(Fake(1))
            tensors[-1].arguments = Storage(length // 4, f"{number:05}"), *tensors[-1].arguments[1:]
        archive.writestr("archive/data.pkl", pickled({"a": tensors}))
    return file.getvalue()


def members_of(run: Path) -> Members:
    with zipfile.ZipFile(run / "model.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def state_dict(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(io.BytesIO(members_of(run)["policy.pth"]), weights_only=True)
    return loaded


def replace(run: Path, **members: bytes) -> None:
    """Put other members into the model.zip of a run; `policy_optimizer` is `policy.optimizer.pth`."""
    names = {name: f"{name.replace('policy_optimizer', 'policy.optimizer')}.pth" for name in members}
    (run / "model.zip").write_bytes(zipped(members_of(run) | {names[name]: members[name] for name in members}))


def assert_refused(done: Any, *fragments: str) -> None:
    assert (done.status, done.out) == (2, ""), done
    assert "Traceback" not in done.err
    assert 1 <= len(done.err.splitlines()) <= 2
    assert len(done.err) < 1500
    assert done.err.isprintable() or done.err.replace("\n", "").isprintable()
    for fragment in fragments:
        assert fragment in done.err
    assert not Path(MARKER).exists()


# --- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["config.yaml", "model.zip"])
def test_a_pickle_for_a_file_that_is_needed_is_refused(name: str, bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    (run / name).write_bytes(bomb)
    for command in ("evaluate", "record"):
        assert_refused(toolkit(command, run), f"run/{name}")


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["policy", "policy_optimizer"])
def test_a_pickle_for_weights_is_refused(name: str, bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    replace(run, **{name: bomb})
    assert_refused(toolkit("evaluate", run), "run/model.zip: is damaged, or no SB3 model: policy")
    replace(run, **{name: pth(bomb)})
    assert_refused(toolkit("evaluate", run), "run/model.zip: is damaged, or no SB3 model: policy")


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("member", ["data", "pytorch_variables.pth", "system_info.txt", "_stable_baselines3_version"])
def test_a_pickle_for_what_a_model_does_not_need_is_not_read(
    member: str, bomb: bytes, run: Path, toolkit: Toolkit
) -> None:
    (run / "model.zip").write_bytes(zipped(members_of(run) | {member: bomb}))
    assert toolkit("evaluate", run, "--episodes", "1").status == 0
    assert not Path(MARKER).exists()


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_pickle_for_every_other_file_is_not_read_or_refused(bomb: bytes, run: Path, toolkit: Toolkit) -> None:
    others = files_in(run) - {"config.yaml", "model.zip"} | {"videos/x.mp4", "snapshots/40/state.json"}
    for name in others:
        (run / name).parent.mkdir(exist_ok=True, parents=True)
        (run / name).write_bytes(bomb)
    assert toolkit("evaluate", run, "--episodes", "1").status == 0
    assert_refused(toolkit("plot", run), "run/monitor.csv: is not a monitor.csv")
    assert_refused(toolkit("resume", run), "run/result.json: is damaged")
    assert "is damaged" in tk.load(run)._repr_html_()
    assert not Path(MARKER).exists()


# --- weights --------------------------------------------------------------------------------------------------------

TUPLES = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
WEIGHTS: dict[str, tuple[bytes, str]] = {
    "names os.system": (pth(pickle.dumps({"a": Call(os.system, "x")}, 2)), "system', which no weights need"),
    "names bytearray": (pth(pickle.dumps({"a": Call(bytearray, 10**11)}, 2)), "bytearray', which no weights"),
    "builds a sparse tensor": (saved({"a": torch.eye(2).to_sparse()}), "_rebuild_sparse_tensor', which no weights"),
    "names a numpy scalar": (saved({"a": __import__("numpy").float64(1)}), "scalar', which no weights"),
    "calls a storage": (pth(pickle.dumps({"a": Call(torch.FloatStorage, 10**11)}, 2)), "policy.pth: it"),
    "a tensor of 2**40 numbers": (pth(pickled({"a": Fake(2**40)})), "claims more numbers than the file has"),
    "2**40 numbers from one": (pth(pickled({"a": Fake(2**20, 2**20, stride=(0, 0))})), "claims more numbers"),
    "numbers before the first": (pth(pickled({"a": Fake(2, stride=(-1,))})), "no whole number"),
    "numbers after the last": (pth(pickled({"a": Fake(2, offset=3)})), "claims more numbers"),
    "a huge stride": (pth(pickled({"a": Fake(2, stride=(2**40,))})), "claims more numbers"),
    "a storage longer than its record": (pth(pickled({"a": Fake(4, numel=2**40)})), "not as long as it should be"),
    "a tensor of a million axes": (pth(pickled({"a": Fake(*[1] * 9999, stride=(1,) * 9999)})), "no proper shape"),
    "a key that overflows the stack": (pth(TUPLES), "data.pkl claims"),
    "a smaller one": (pth(TUPLES[:60_000] + b"K\x01s."), "neither text nor a number"),
    "a memo of 2**31 entries": (pth(b"\x80\x02}r\xff\xff\xff\x7f."), "has no 'q_net"),
    "bytes of a claimed length": (pth(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x00" + b"."), "policy.pth: "),
    "storages that overlap": (overlapping(8, 1 << 18), "data/00001 claims 262,432 bytes, and could have"),
    "a pickle without end": (pth(b"\x80\x02}"), "policy.pth: "),
    "a pickle out of nothing": (pth(b"\x80\x02u."), "policy.pth: "),
    "no mapping": (pth(b"\x80\x02]."), "it is no mapping"),
    "a mapping in itself": (pth(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."), "has no 'q_net"),
    "an empty zip": (zipped({}), "it has no data.pkl"),
    "nothing": (b"", "policy.pth: "),
    "a compressed gigabyte of numbers": (
        pth(pickled({"a": Fake(2**28, numel=2**28)}), bytes(2**28), zipfile.ZIP_DEFLATED),
        "data/0 claims 268,435,456 bytes",
    ),
    "a compressed gigabyte of pickle": (pth(bytes(2**28), compression=zipfile.ZIP_DEFLATED), "data.pkl claims"),
}


@pytest.mark.parametrize(("content", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_none_are_refused(content: bytes, message: str, run: Path, toolkit: Toolkit) -> None:
    replace(run, policy=content)
    assert_refused(toolkit("evaluate", run), "error: run/model.zip: ", message)


def first(run: Path) -> str:
    return next(iter(state_dict(run)))


MISFITS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "NaN": (lambda one: one * torch.nan, "numbers that are not finite"),
    "one infinite number": (lambda one: one.index_fill(0, torch.tensor(0), torch.inf), "numbers that are not finite"),
    "another shape": (lambda one: one.T.contiguous(), "has the shape (4, 3) and should have (3, 4)"),
    "more of it": (lambda one: torch.cat([one, one]), "has the shape (6, 4)"),
    "float64": (lambda one: one.double(), "holds torch.float64 and should hold torch.float32"),
    "whole numbers": (lambda one: one.long(), "holds torch.int64"),
    "text": (lambda one: "weights", "is no tensor"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_a_tensor_that_does_not_fit_is_named(
    change: Callable[[torch.Tensor], Any], message: str, run: Path, toolkit: Toolkit
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("[4]", "[3]"))
    trained = tk.train(run / "config.yaml", "other").directory
    weights = state_dict(trained)
    name = first(trained)
    replace(trained, policy=saved(weights | {name: change(weights[name])}))
    done = toolkit("evaluate", trained)
    assert_refused(done, f"error: other/model.zip: does not fit the run's config.yaml: policy: {name}", message)


OPTIMIZERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no state": (lambda one: {"param_groups": one["param_groups"]}, "is the state of no optimizer"),
    "another number of parameters": (lambda one: one | {"param_groups": []}, "is of other parameters"),
    "an infinite learning rate": (lambda one: changed_group(one, lr=float("inf")), "lr is not finite"),
    "a learning rate of text": (lambda one: changed_group(one, lr={}), "lr is no setting"),
    "a larger moment": (lambda one: one | {"state": {0: {"exp_avg": torch.zeros(100)}}}, "has the shape (100,)"),
    "a moment of NaN": (lambda one: one | {"state": {0: {"exp_avg": torch.full((4, 4), torch.nan)}}}, "not finite"),
    "a moment of no parameter": (lambda one: one | {"state": {99: {}}}, "of a parameter that does not exist"),
}


def changed_group(state: dict[str, Any], **values: Any) -> dict[str, Any]:
    return state | {"param_groups": [state["param_groups"][0] | values]}


@pytest.mark.parametrize(("change", "message"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, run: Path, toolkit: Toolkit
) -> None:
    state = torch.load(io.BytesIO(members_of(run)["policy.optimizer.pth"]), weights_only=True)
    replace(run, policy_optimizer=saved(change(state)))
    assert_refused(toolkit("evaluate", run), "run/model.zip: ", "policy.optimizer", message)


# --- zips -----------------------------------------------------------------------------------------------------------


def claiming(content: bytes, size: int) -> bytes:
    """Return a zip whose first member claims so many bytes in the directory and in its own header."""
    data = bytearray(content)
    central = int.from_bytes(data[-6:-2], "little")
    data[central + 24 : central + 28] = data[22:26] = size.to_bytes(4, "little")
    return bytes(data)


ZIPS: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "a name above the run": (lambda members: zipped(members | {"../../evil": b"x"}), "'../../evil'"),
    "an absolute name": (lambda members: zipped(members | {"/tmp/evil.pth": b"x"}), "'/tmp/evil.pth'"),
    "a name of control characters": (lambda members: zipped(members | {"\x1b[2Jevil": b"x"}), "'\\x1b[2Jevil'"),
    "a name of a thousand letters": (lambda members: zipped(members | {"x" * 1000: b"x"}), "x" * 80),
    "weights of another model": (lambda members: zipped(members | {"actor.pth": b"x"}), "'actor.pth'"),
    "no weights": (lambda members: zipped({"data": members["data"]}), "it has no parameters"),
    "one part": (lambda members: zipped({"policy.pth": members["policy.pth"]}), "it has no policy.optimizer.pth"),
    "a compressed gigabyte": (lambda m: zipped(m | {"policy.pth": bytes(2**30)}, zipfile.ZIP_DEFLATED), "claims"),
    "a claim of four gigabytes": (
        lambda m: claiming(zipped({"policy.pth": m["policy.pth"]} | m), 2**32 - 2),
        "claims",
    ),
    "a claim of nothing": (lambda m: claiming(zipped({"policy.pth": m["policy.pth"]} | m), 0), "policy.pth"),
    "a compression that asks for memory": (lambda members: zipped(members, zipfile.ZIP_LZMA), "in an unusual way"),
    "a hundred thousand members": (lambda m: zipped(m | {f"{n:050}": b"" for n in range(100_000)}), "too long"),
    "one member twice": (
        lambda m: zipped(m).replace(b"pytorch_variables.pth", b"policy.optimizer.pth\0"),
        "SB3 model",
    ),
    "a directory that lies about its place": (lambda m: zipped(m)[:-8] + b"\xff" * 8, "no SB3 model"),
}


@pytest.mark.parametrize(("content", "message"), ZIPS.values(), ids=ZIPS)
def test_a_zip_that_is_no_model_is_refused(
    content: Callable[[Members], bytes], message: str, run: Path, toolkit: Toolkit
) -> None:
    before = files_in(Path())
    (run / "model.zip").write_bytes(content(members_of(run)))
    assert_refused(toolkit("evaluate", run), "error: run/model.zip: ", message)
    assert files_in(Path()) == before


def test_a_model_zip_with_any_bit_flipped_or_any_end_missing_is_refused_or_whole(run: Path) -> None:
    good = (run / "model.zip").read_bytes()
    whole = state_dict(run)
    generator = random.Random(0)
    refused = 0
    for number in range(400):
        place = generator.randrange(len(good))
        flipped = good[:place] + bytes([good[place] ^ 1 << number % 8]) + good[place + 1 :]
        (run / "model.zip").write_bytes(good[:place] if number % 4 == 0 else flipped)
        try:
            model = load_model(tk.load(run))
        except RunError:
            refused += 1
        else:
            loaded = model.policy.state_dict()
            assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())
    assert 200 < refused < 400


MEASURE = """\
import resource, sys, toolkit
from toolkit.utils.errors import RunError
from toolkit.training.model import load_model
from toolkit.training.run_directory import RunDirectory

load_model(RunDirectory.open(toolkit.training.run_directory.Path(sys.argv[1])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for directory in sys.argv[2:]:
    try:
        load_model(RunDirectory.open(toolkit.training.run_directory.Path(directory)))
    except RunError:
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_what_claims_gigabytes_takes_a_few_megabytes(run: Path) -> None:
    good = members_of(run)
    bombs = [zipped(good | {"policy.pth": content}) for content, _ in WEIGHTS.values()]
    bombs += [content(good) for content, _ in ZIPS.values()]
    for number, bomb in enumerate(bombs):
        shutil.copytree(run, f"bomb-{number}")
        Path(f"bomb-{number}/model.zip").write_bytes(bomb)
    arguments = [f"bomb-{number}" for number in range(len(bombs))]
    done = subprocess.run([sys.executable, "-c", MEASURE, run, *arguments], capture_output=True, text=True, check=True)
    grown = [*map(int, done.stdout.split())]
    assert len(grown) == len(bombs)
    assert max(grown) < 100, dict(zip([*WEIGHTS, *ZIPS], grown, strict=True))


# --- other files ----------------------------------------------------------------------------------------------------

YAML = {
    "a tag": ("!!python/object/apply:os.system [touch executed]\n", "YAML tags are not read"),
    "a tag within": ("timesteps: !!python/name:os.system\n", "YAML tags are not read"),
    "aliases that double": ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "anchors and aliases are not read"),
    "nesting": ("a: " + "[" * 100_000, "is nested more than 40 levels deep"),
    "half a million values": ("a: [" + "1," * 500_000 + "]", "has more than 50,000 values"),
    "two megabytes": ("a: '" + "x" * (2 << 20) + "'", "is larger than 1 MiB"),
    "a list": ("- 1\n", "must be a mapping"),
    "nothing": ("", "is empty"),
    "zeros": ("\0" * 1000, "is not text"),
    "another file": ("extends: /etc/passwd\n", "must be a mapping"),
    "itself": ("extends: config.yaml\n", "is circular"),
    "control characters": (CONFIG.replace("dqn", '"\\e[2J\\u202e"'), "\\x1b[2J"),
}


@pytest.mark.parametrize(("content", "message"), YAML.values(), ids=YAML)
def test_a_config_that_is_none_is_refused(content: str, message: str, run: Path, toolkit: Toolkit) -> None:
    (run / "config.yaml").write_text(content)
    for command in ("evaluate", "describe"):
        assert_refused(toolkit(command, run), message)


RESULTS = [
    *("[", "[]", "null", "1", '"x"', "[" * 100_000, '{"a":' * 100_000, '[["success", "x"]]', '{"success": "x"}'),
    *('{"success": [1]}', '{"success": {"episode": "x"}}', '{"success": {"episode": -3}}', '{"timesteps": "x"}'),
    *('{"success": {"episodes": 0}}', '{"success": {"threshold": [1]}}', '{"success": {"episode": true}}', "9" * 5000),
    *('{"success": {"episodes": 1e300}}', "\0\xff", '{"status": 1}', " " * (2 << 20)),
]


@pytest.mark.parametrize("content", RESULTS, ids=lambda content: content[:30])
def test_a_result_that_training_did_not_write_is_refused(content: str, run: Path, toolkit: Toolkit) -> None:
    (run / "result.json").write_text(content)
    for command in ("plot", "resume"):
        assert_refused(toolkit(command, run), "error: run/result.json: is damaged")
    assert "is damaged" in tk.load(run)._repr_html_()
    assert toolkit("evaluate", run, "--episodes", "1").status == 0


@pytest.mark.parametrize(
    "row",
    [
        *(
            "1,2",
            "nan,1,1",
            "inf,1,1",
            "1e308,1,1",
            "1,-5,1",
            "1,1.5,1",
            f"1,{2**64},1",
            f"1,{'9' * 5000},1",
            "\x1b,1,1",
        )
    ],
    ids=lambda row: row[:20],
)
def test_an_episode_that_is_none_is_refused(row: str, run: Path, toolkit: Toolkit) -> None:
    (run / "monitor.csv").write_text(f"#{{}}\nr,l,t\n1,1,1\n{row}\n")
    assert_refused(toolkit("plot", run), "error: run/monitor.csv:4: is not an episode")


@pytest.mark.parametrize("name", ["result.json", "monitor.csv"])
def test_a_file_larger_than_any_that_training_writes_is_not_read(name: str, run: Path, toolkit: Toolkit) -> None:
    with (run / name).open("wb") as file:
        file.truncate(2**40)
    assert_refused(toolkit("plot", run), f"error: run/{name}: ")


@pytest.mark.parametrize(
    "content", ["[", "[" * 100_000, "null", '{"versions": 1}', "\0", '{"versions": {"python": []}}']
)
def test_what_environment_json_says_matters_to_no_command(content: str, run: Path, toolkit: Toolkit) -> None:
    (run / "environment.json").write_text(content)
    (run / "result.json").unlink()
    for command in ("evaluate", "resume"):
        assert toolkit(command, run).status == 0


# --- links ----------------------------------------------------------------------------------------------------------


def test_videos_that_lead_out_of_the_run_are_not_written_to(run: Path, toolkit: Toolkit) -> None:
    Path("elsewhere").mkdir()
    (run / "videos").symlink_to(Path("elsewhere").resolve())
    assert_refused(toolkit("record", run), "error: run/videos: is a link, and nothing is written through it\nname a")
    assert not files_in(Path("elsewhere"))
    assert toolkit("record", run, "--out", "elsewhere").status == 0


@pytest.mark.parametrize("name", ["videos", "snapshots", "tensorboard", "snapshots/40", "monitor.csv"])
def test_a_run_with_a_link_in_it_is_not_resumed(name: str, run: Path, toolkit: Toolkit) -> None:
    (run / "result.json").unlink()
    path = run / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    elsewhere = Path("elsewhere").resolve()
    (elsewhere / ".recording-mine").mkdir(parents=True)
    (elsewhere / ".recording-mine" / "precious").write_text("mine")
    path.symlink_to(elsewhere)
    assert_refused(toolkit("resume", run), f"error: run/{name}: is a link, and nothing is written through it")
    assert files_in(elsewhere) == {".recording-mine/precious"}


def test_a_picture_takes_the_place_of_a_link_and_does_not_follow_it(run: Path, toolkit: Toolkit) -> None:
    Path("precious").write_text("mine")
    (run / "learning_curve.png").symlink_to(Path("precious").resolve())
    assert toolkit("plot", run).status == 0
    assert Path("precious").read_text() == "mine"
    assert not (run / "learning_curve.png").is_symlink()


def test_a_video_that_is_a_link_is_not_shown_in_a_notebook(run: Path) -> None:
    Path("secret").write_text("my secret")
    (run / "videos").mkdir()
    (run / "videos" / "x.mp4").symlink_to(Path("secret").resolve())
    assert "no video yet" in tk.load(run)._repr_html_()


def test_a_model_and_a_run_may_be_links_to_where_they_are_kept(run: Path, toolkit: Toolkit) -> None:
    (run / "model.zip").rename("kept.zip")
    (run / "model.zip").symlink_to(Path("kept.zip").resolve())
    Path("link").symlink_to(run)
    assert toolkit("evaluate", "link", "--episodes", "1").status == 0


@pytest.mark.parametrize("name", ["model.zip", "config.yaml", "result.json", "monitor.csv"])
@pytest.mark.parametrize("what", ["a pipe", "a device", "a directory", "a loop", "nowhere"])
def test_what_is_no_file_is_refused(name: str, what: str, run: Path, toolkit: Toolkit) -> None:
    path = run / name
    path.unlink()
    match what:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a directory":
            path.mkdir()
        case "a loop":
            path.symlink_to(path.name)
        case "nowhere":
            path.symlink_to("nowhere")
    done = toolkit("evaluate" if name in ("model.zip", "config.yaml") else "plot", run)
    if (name, what) == ("result.json", "nowhere"):
        assert done.status == 0, "a run that goes on has none either"
        return
    assert_refused(done, "error: run")
