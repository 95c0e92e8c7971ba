"""The public functions behind the commands: one module each, data in, a frozen report out."""

from nctool.api.exploring import ExploreReport, explore
from nctool.api.exporting import ExportReport, export
from nctool.api.finetuning import finetune
from nctool.api.history import HistoryReport, history
from nctool.api.inspecting import BranchReport, InspectReport, inspect
from nctool.api.running import RunReport, run_sim
from nctool.api.training import TrainReport, train
from nctool.api.verifying import VerifyReport, verify
from nctool.conversion.trace.prepare import prepare
from nctool_deploy.foreign import ForeignOptions

__all__ = [
    "BranchReport",
    "ExploreReport",
    "ExportReport",
    "ForeignOptions",
    "HistoryReport",
    "InspectReport",
    "RunReport",
    "TrainReport",
    "VerifyReport",
    "explore",
    "export",
    "finetune",
    "history",
    "inspect",
    "prepare",
    "run_sim",
    "train",
    "verify",
]
