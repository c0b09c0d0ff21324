"""How a command begins and ends: settings, errors, interruptions, outputs that take nothing."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import tracks.few_shot
import tracks.predict
import tracks.score
import tracks.zero_shot
from models.errors import ModelInputError
from tracks.command.cli import explain, reports_errors, run_main, stop
from tracks.command.settings import _check_kind
from tracks.errors import TrackInputError

ROOT = Path(__file__).resolve().parents[3]


def said_by(task, capsys):
    """What a task that ends with exit code 2 says on stderr."""
    with pytest.raises(SystemExit) as stopped:
        task()
    assert stopped.value.code == 2
    return capsys.readouterr().err


def python(program, **options):
    """A finished `python -c`; its output is text unless told otherwise."""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, timeout=60, **options)


def test_an_error_of_the_user_ends_in_one_paragraph_and_exit_code_2(capsys):
    @reports_errors
    def task():
        raise TrackInputError("expected a, got b; do c")

    assert said_by(task, capsys) == "error: expected a, got b; do c\n"


def test_a_fault_of_ours_is_not_hidden():
    @reports_errors
    def task():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        task()


def test_a_handled_error_does_not_mask_a_fault():
    @reports_errors
    def task():
        try:
            raise TrackInputError("a photo that is passed over")
        except TrackInputError:
            raise ZeroDivisionError  # noqa: B904  (a fault in the handler)

    with pytest.raises(ZeroDivisionError):
        task()


def test_an_error_inside_a_constructor_is_found():
    outer = RuntimeError("instantiation failed")
    outer.__cause__ = ModelInputError("expected x")
    assert explain(outer) == "expected x"


def test_an_interruption_says_that_the_work_is_kept(capsys):
    @reports_errors
    def task():
        raise KeyboardInterrupt

    assert "kept" in said_by(task, capsys)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "room on the disk for /a/b"),
        (errno.EACCES, "use /a/b, got: Permission denied"),
        (errno.EEXIST, "use /a/b, got: a file where a folder is needed"),
        (errno.ENOTDIR, "use /a/b, got: a file where a folder is needed"),
        (errno.EISDIR, "use /a/b, got: Is a directory"),
        (errno.ENAMETOOLONG, "use /a/b, got: File name too long"),
        (errno.ELOOP, "use /a/b, got: Too many levels of symbolic links"),
        (errno.EROFS, "use /a/b, got: Read-only file system"),
        (errno.EIO, "use /a/b, got: Input/output error"),
        (errno.ENOENT, "use /a/b, got: No such file or directory"),
        (errno.EMFILE, "use /a/b, got: Too many open files"),
    ],
)
def test_whatever_a_path_raises_is_explained(number, said):
    assert said in explain(OSError(number, os.strerror(number), "/a/b"))


def test_an_error_of_the_system_without_a_path_is_a_fault_but_for_a_full_disk():
    assert explain(OSError(errno.EINVAL, "Invalid argument")) is None
    assert "room on the disk for the output" in explain(OSError(errno.ENOSPC, "No space left on device"))


def test_a_class_whose_module_is_not_on_the_path_is_named():
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "my_idea.MyIdea"})
    assert "PYTHONPATH=folder" in explain(caught.value)
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "models.base.NoSuchModel"})
    assert explain(caught.value) is None


def test_too_little_memory_and_a_name_that_cannot_be_written_are_explained():
    assert "ARGS=batch_size=1" in explain(MemoryError())
    with pytest.raises(UnicodeEncodeError) as caught:
        "nächste".encode("ascii")
    assert "in ascii, got 'nächste'" in explain(caught.value)


@pytest.mark.parametrize(
    ("by_make", "by_vandkit"),
    [
        ("run `make few-shot MODEL=musc`, or", "run `vandkit few-shot model=musc`, or"),
        ("`make weights WEIGHTS=sam_vit_h` fetches it", "`vandkit weights sam_vit_h` fetches it"),
        ("`make predict` wrote it; use ARGS=batch_size=1", "`vandkit predict` wrote it; use batch_size=1"),
        ("for example `make submission RUN=a ARGS='run=[b,c]'`", "for example `vandkit submit run=a 'run=[b,c]'`"),
        ('quotes of its own: ARGS="\'key=\\"a, b\\"\'"', "quotes of its own: 'key=\"a, b\"'"),
        ("what you make of /a/OUT=3, PYTHONUTF8=1", "what you make of /a/OUT=3, PYTHONUTF8=1"),
    ],
)
def test_errors_speak_of_make_where_make_was_asked(monkeypatch, capsys, by_make, by_vandkit):
    for level, said in (("1", by_make), ("", by_vandkit)):
        monkeypatch.setenv("MAKELEVEL", level)
        with pytest.raises(SystemExit):
            stop(by_make)
        assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=clip_adaptor"], "got 'clip_adaptor'; did you mean clip_adapter?"),
        (["data=MVTec"], "got 'MVTec'; did you mean mvtec?"),
        (["seeed=3"], "got 'seeed'; did you mean seed?"),
        (["model.memory_wieght=3"], "got 'model.memory_wieght'; did you mean model.memory_weight?"),
        (["model=winclip", "model.scales_=1"], "'model.scales_'"),
        (["+foo=3"], "expected an added setting that something reads, got 'foo'"),
        (["+model.memory_wieght=3"], "something reads, got 'model.memory_wieght'"),
        (["++weights.adapter.pth=x"], "got 'weights.adapter.pth'; known are weights.adapter.path"),
        (["+seed=3"], "expected seed=... without the +"),
        (["~foo"], "got ~foo"),
        (["seed=0,1"], "expected one value for seed, got 0,1; a list is [0,1]"),
        (["seed=abc"], "expected seed to be a whole number, got 'abc'"),
        (["fresh=word"], "expected fresh to be true or false, got 'word'"),
        (["references=[a,b]"], "expected references to be one value, without brackets, got ['a', 'b']"),
        (["categories=null"], "expected categories to be a list, like [a,b], got null"),
        (["model.memory_weight=abc"], "expected model.memory_weight to be a number"),
        (["false_alarm_rate=nan"], "expected false_alarm_rate to be a number, got nan"),
        (["categories=[a"], "got 'categories=[a', which cannot be read"),
        (["photos/good"], "expected settings as key=value, got 'photos/good'"),
        (["data=mvtec", "model=constant", "weights=none"], "a value for data.root, got none; give it with root="),
    ],
)  # fmt: skip
def test_settings_that_nothing_reads_are_refused_in_our_words(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zero_shot", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    message = said_by(lambda: run_main(tracks.zero_shot.main), capsys)
    assert said in message
    assert message.count("\n") == 1
    assert "hydra" not in message.lower()


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (tracks.zero_shot, ["categories=[marbel]"], "did you mean marble"),
        (tracks.zero_shot, ["categories=marbel"], "did you mean marble"),
        (tracks.zero_shot, ["data=mvtec", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
        (tracks.zero_shot, ["shots=4"], "few-shot"),
        (tracks.zero_shot, ["weights.backbone.name=ViT-B-16"], "tiny_clip"),
        (tracks.zero_shot, ["device=gpu"], "expected a device that this machine has, got 'gpu'"),
        (tracks.zero_shot, ["resolution=big"], "expected resolution to be a number of pixels or native, got 'big'"),
        (tracks.few_shot, ["shots=-1"], "shots >= 1"),
        (tracks.few_shot, ["shots=many"], "shots"),
        (tracks.few_shot, ["shots=500", "categories=[marble]"], "500"),
        (tracks.score, ["run=/nowhere"], "/nowhere"),
        (tracks.predict, ["images=['one photo.jpg',/nowhere/at/all.jpg]"], "one photo.jpg"),
    ],
)
def test_bad_input_gets_one_paragraph(command, words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    message = said_by(lambda: run_main(command.main), capsys)
    assert said in message
    assert len([line for line in message.splitlines() if line.startswith("error:")]) == 1


def test_what_a_constructor_or_another_setting_reads_may_be_added(monkeypatch, capsys):
    """It gets as far as the data set, which was not named: whoever reads it is asked before."""
    words = ["data=mvtec", "model=winclip", "weights=none", "++model.temperature=0.5", "+model.scales=[2,3]"]
    read = ["data=mvtec", "+weights.clipseg={}", "+prompts.anything=1", "weights=none", "model=clipseg"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for given, said in (
        (words[:3], "data.root"),
        (read[:2] + read[3:], "data.root"),
        (read[:3] + read[3:], "prompts.anything"),
    ):
        monkeypatch.setattr(sys, "argv", ["zero_shot", *given])
        assert said in said_by(lambda: run_main(tracks.zero_shot.main), capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bootstrap=abc"], "expected bootstrap to be a whole number (by default 0), got 'abc'"),
        (["workers=1.5"], "expected workers to be a whole number (by default 2), got 1.5"),
        (["+boostrap=1"], "did you mean bootstrap?"),
    ],
)
def test_a_command_without_a_schema_knows_the_kinds_of_its_defaults(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score", "run=nowhere", *words])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert said in said_by(lambda: run_main(tracks.score.main), capsys)


def test_a_run_names_all_weights_that_are_missing_and_their_group(monkeypatch, capsys, tmp_path):
    for variable in ("VANDKIT_WEIGHTS", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    words = ["weights=openai_vitl14_336", "weights.adapter.path=april_gan_visa", f"outputs={tmp_path}/outputs"]
    monkeypatch.setattr(sys, "argv", ["zero_shot", *words])
    message = said_by(lambda: run_main(tracks.zero_shot.main), capsys)
    assert "openai_vitl14_336, april_gan_visa" in message
    assert "`vandkit weights april_gan` fetches them" in message
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("key", "default", "given"),
    [
        ("shots", [0, 1], 4), ("seeds", [], [1]), ("model.weight", 1, 0.5), ("rate", 0.5, 1), ("fresh", False, 1),
        ("run", "outputs/a", ["b", "c"]), ("run", None, ["b"]), ("name", "a", 3), ("out", "", "x"), ("any", None, "x"),
        ("resolution", 256, "native"),
    ],
)  # fmt: skip
def test_values_of_a_settings_own_kind_are_taken(key, default, given):
    _check_kind(key, default, given)


@pytest.mark.parametrize(
    ("key", "default", "given"),
    [
        ("models", [], "winclip"), ("models", [], 3), ("workers", 2, 1.5), ("workers", 2, True), ("rate", 0.5, "x"),
        ("rate", None, float("nan")), ("fresh", False, "maybe"), ("out", None, ["a"]), ("data.root", "a", ["b"]),
        ("settings", {}, 3),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(key, default, given):
    with pytest.raises(TrackInputError, match=f"expected (one value for )?{key}"):
        _check_kind(key, default, given)


def test_ctrl_c_while_a_command_imports_its_parts_ends_in_one_sentence(tmp_path):
    stand_in = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n"
    for package in ("hydra", "torch"):  # what is imported first of the large ones
        (tmp_path / f"{package}.py").write_text(stand_in)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for module in ("tracks.zero_shot", "tracks.predict", "train.adapter", "train.tiny"):
        command = [sys.executable, "-m", module]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith("error: interrupted")


def test_a_notebook_keeps_its_own_way_with_ctrl_c():
    done = python("import signal, models; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)",
                  stdout=subprocess.PIPE)  # fmt: skip
    assert done.stdout == "True\n"


PRINT_MUCH = (
    "from tracks.command.cli import reports_errors\nreports_errors(lambda: [print('x' * 50) for _ in range({})])()"
)


@pytest.mark.parametrize("lines", [1, 5000])
def test_a_reader_that_leaves_ends_the_command_without_a_word(lines):
    reading, writing = os.pipe()
    os.close(reading)
    done = python(PRINT_MUCH.format(lines), stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_an_output_without_room_is_one_paragraph():
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = python(PRINT_MUCH.format(5000), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "room on the disk" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_can_be_printed(encoding):
    program = "from tracks.command.cli import print_any_name\nprint_any_name()\nprint('日本 \\udcff')"
    done = python(program, env={**os.environ, "PYTHONIOENCODING": encoding}, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout.rstrip("\n") in ("日本 \\udcff", "\\u65e5\\u672c \\udcff")
