"""The run folder of a stream."""

from ..checkpoints.run_folder import RunFolder


class StreamFolder(RunFolder):
    """A run folder with what a stream leaves besides."""

    predictions = property(lambda self: self.path / "predictions.jsonl")
    dead_letters = property(lambda self: self.path / "dead_letters.jsonl")
    quarantine = property(lambda self: self.path / "quarantine.jsonl")
    states = property(lambda self: self.path / "states.sqlite")
