"""tests/conftest.py: the report of a failing test can be sent to the process that collects the reports."""

import conftest
import pytest
from _pytest.reports import TestReport

NAME = "\udcff.png"
"""The name of a file that is not UTF-8."""


@pytest.mark.parametrize("part", ["longrepr", "sections"])
def test_a_report_with_the_name_of_a_file_can_be_encoded(part):
    parts = (
        {"longrepr": f"ValueError: {NAME}"}
        if part == "longrepr"
        else {"sections": [("Captured log call", f"skipped {NAME}")]}
    )
    given = {"nodeid": "test", "location": ("test", 1, "test"), "keywords": {}, "when": "call", "longrepr": None}
    report = TestReport(**(given | {"outcome": "failed"} | parts))
    with pytest.raises(UnicodeEncodeError):
        str(vars(report)[part]).encode() if part == "longrepr" else report.caplog.encode()
    hook = conftest.pytest_runtest_makereport(None, None)
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(report)
    text = end.value.value.longreprtext + end.value.value.caplog
    assert "\\udcff.png" in text and text.encode()
