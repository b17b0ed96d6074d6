"""What every evaluation is made of: the frame, its options, and the values that go through it.

A protocol in `eval/` needs these names; they import nothing heavy.
"""

from eval.frame.command import Command
from eval.frame.options import EvaluationOptions, ModelOptions
from eval.frame.part import Part
from eval.frame.protocol import Evaluation, Outcome, Pass, Step

__all__ = ["Command", "Evaluation", "EvaluationOptions", "ModelOptions", "Outcome", "Part", "Pass", "Step"]
