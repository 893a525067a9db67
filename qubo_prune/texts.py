"""The texts that are used where none is named: web text to calibrate on, Wikipedia text to evaluate on."""

from qubo_prune.sources import data_dir

CALIBRATION_TEXT = "package:exllamav3/conversion/standard_cal_data/c4.utf8"
"""A sample of C4 that the package exllamav3 carries."""

_EVALUATION_DATA = "text/wikitext2-test.txt"
_EVALUATION_PACKAGE = "package:exllamav3/conversion/standard_cal_data/wiki.utf8"


def evaluation_text() -> str:
    """WikiText-2's test split where the data folder has it, else the Wikipedia sample of the package
    exllamav3."""
    folder = data_dir()
    if folder is not None and (folder / _EVALUATION_DATA).is_file():
        return f"data:{_EVALUATION_DATA}"
    return _EVALUATION_PACKAGE
