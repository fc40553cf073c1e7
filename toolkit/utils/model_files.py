"""Where the models of a run lie in its directory."""

from __future__ import annotations

from pathlib import Path

from toolkit.utils.errors import RunError

MODEL_FILE = "model.zip"
BEST = "best"  # directory of the best model
BEST_BEFORE = ".best-before.tmp"  # while another one takes its place


def find_model(directory: Path, choice: str = "final") -> Path:
    """Return where a model of a run lies: an SB3 zip, or the directory of a snapshot.

    What the wrappers and the policy learned lies in ``wrappers/`` beside a zip, and in a snapshot itself.

    :param directory: of the run
    :param choice: ``final`` for the end of training, ``best`` by an evaluation with ``keep_best``, or
        ``snapshot:N`` for timestep N
    :raises RunError: if the run does not have it
    """
    kind, _, timestep = choice.partition(":")
    if choice == "final":
        path, hint = directory / MODEL_FILE, "the run has not ended, or failed before it had a model"
    elif choice == "best":
        directories = (directory / BEST, directory / BEST_BEFORE)
        path = next((path for path in directories if path.is_dir()), directories[0]) / MODEL_FILE
        hint = "the callback 'evaluate' saves one, with keep_best: true"
    elif kind == "snapshot" and timestep.isdecimal() and timestep.isascii():
        path = directory / "snapshots" / timestep
        names = [item.name for item in path.parent.glob("*") if item.name.isdecimal()]
        hint = f"its snapshots: {', '.join(sorted(names, key=int)) or 'none'}"
    else:
        raise RunError(f"the model '{choice}' does not exist", "choose final, best or snapshot:N")
    if not (path / "state.json" if kind == "snapshot" else path).is_file():
        raise RunError(f"{directory}: has no {path.relative_to(directory)}", hint)
    return path
