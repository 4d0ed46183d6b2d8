"""Keeps one Bandit warm: a JSON line with code blocks in, a JSON line with findings out. It only parses the code."""
import importlib.metadata
import io
import json
import logging
import os
import shutil
import sys
import tempfile

from bandit.core import config, manager


def analyse(units):
    """Findings per unit, through Bandit's own manager, all units in one run."""
    folder = tempfile.mkdtemp(prefix="bessemer-bandit-")
    try:
        names = {}
        for index, unit in enumerate(units):
            # neutral names: some rules look at file names
            path = os.path.join(folder, f"unit{index}.py")
            with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(unit["code"])
            names[path] = index
        # ignore_nosec: a comment by the model must not switch the analyzer off
        run = manager.BanditManager(config.BanditConfig(), "file", quiet=True, ignore_nosec=True)
        run.discover_files(sorted(names))
        run.run_tests()
        answers = [{"status": "analysed", "findings": []} for _ in units]
        for path, why in run.get_skipped():
            kind = "unparsable" if "syntax error" in why else "unscored"
            answers[names[path]] = {"status": kind, "why": why}
        seen = set(run.files_list)
        for path, index in names.items():
            if path not in seen and answers[index]["status"] == "analysed":
                answers[index] = {"status": "unscored", "why": "Bandit did not look at the file"}
        for issue in run.get_issue_list():
            answers[names[issue.fname]]["findings"].append(issue.as_dict(with_code=False))
        return answers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = io.StringIO()  # whatever Bandit prints must not mix with the answers
    version = importlib.metadata.version("bandit")
    python = ".".join(map(str, sys.version_info[:3]))
    print(json.dumps({"version": version, "python": python}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(analyse(json.loads(line)["units"])), file=out, flush=True)


main()
