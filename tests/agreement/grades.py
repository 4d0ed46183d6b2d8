#!/usr/bin/env python3
"""Do the grades `test` and `program` judge alike? Every program of the sets with stdin tests, in both, test by test.

    BESSEMER_DATA=DIR tests/agreement/grades.py [--bessemer PROGRAM] [SET...]

The sets are those of run.py. Rows whose measured run was near a time limit are left out: of two runs of such a program one may
be late. A program that differs is run twice more in each grade: what does not even agree with itself (time, random numbers,
addresses) says nothing about grades and is counted apart.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from run import SETS, Case  # noqa: F401 - Case is what the sets are made of

STDIO = ["securecoderl", "mapcoder_apps", "livecodebench_o1", "coderl_apps", "kattis", "kattis_comparators"]
FIELDS = ("tests", "comparator", "limits", "language")


def jobs_of(name, data):
    """A job for each different program, without its grade."""
    seen = set()
    for case in SETS[name][0](data):
        problem, code = case.row["problem"], case.row.get("code")
        tests = problem.get("tests")
        if case.excluded or not code or "stdin" not in (tests or [{}])[0]:
            continue
        language = case.row.get("language") or problem.get("language", "python")
        job = {"code": code, **{k: problem[k] for k in FIELDS if k in problem}, "language": language, "mode": "stdio"}
        text = json.dumps(job, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield {"id": case.id, **job}


def verdicts(jobs, grade, bessemer):
    text = "".join(json.dumps({**job, "grade": grade}) + "\n" for job in jobs)
    done = subprocess.run([bessemer, "sandbox", "batch"], input=text, capture_output=True, text=True)
    if done.returncode not in (0, 65):
        sys.exit(f"bessemer sandbox batch ended with {done.returncode}: {done.stderr}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["verdict"], [t["verdict"] for t in row["tests"]]) for row in rows], [row["grade"] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bessemer", default="target/release/bessemer")
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(STDIO))
    args = parser.parse_args()
    if "BESSEMER_DATA" not in os.environ:
        print("SKIPPED: BESSEMER_DATA is not set")
        return 0
    bad = 0
    print("| set | programs | tests | in grade program | agree | unsteady | differ |\n|---|---|---|---|---|---|---|")
    for name in args.sets or STDIO:
        jobs = list(jobs_of(name, Path(os.environ["BESSEMER_DATA"])))
        fresh, _ = verdicts(jobs, "test", args.bessemer)
        shared, grades = verdicts(jobs, "program", args.bessemer)
        unequal = [i for i in range(len(jobs)) if fresh[i] != shared[i]]
        again = [jobs[i] for i in unequal]
        runs = {g: [verdicts(again, g, args.bessemer)[0] for _ in range(2)] for g in ("test", "program")} if again else {}
        unsteady, differ = 0, []
        for k, i in enumerate(unequal):
            steady = all(r[k] == fresh[i] for r in runs["test"]) and all(r[k] == shared[i] for r in runs["program"])
            if steady:
                differ.append((jobs[i]["id"], fresh[i], shared[i]))
            else:
                unsteady += 1
        tests = sum(len(v[1]) for v in fresh)
        agree = len(jobs) - len(unequal)
        print(f"| {name} | {len(jobs)} | {tests} | {grades.count('program')} | {agree} | {unsteady} | {len(differ)} |", flush=True)
        for id, a, b in differ:
            print(f"{name} {id}: test {a}, program {b}")
        bad += len(differ)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
