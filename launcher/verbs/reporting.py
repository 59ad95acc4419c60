"""`hvdm report`: the page about a run, or the same as data."""

import json
from pathlib import Path

from hvdm.errors import UserError
from launcher.arguments import Arguments


def report(given: Arguments) -> int:
    from eval.report.report import as_json, write_report

    run = Path(given.need("run", "runs/tiny/hvdm_autoencoder"))
    given.done()
    if not run.is_dir():
        raise UserError(f"run={run}: there is no such folder")
    print(json.dumps(as_json(run), indent=1) if given.json else f"wrote {write_report(run)}")
    return 0
