from .frame.metrics import METRICS as METRICS
from .frame.result import Result as Result
from .frame.result import load_results as load_results
