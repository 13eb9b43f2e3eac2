"""lm-evaluation-harness's own `hf` backend, transformers in this process: what the tasks in a folder give.

lm_eval_transformers.py CHECKPOINT TASKS_FOLDER OUTPUT TASK...

The harness's own tasks are not looked for, which would take longer than all the rest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager


def main(checkpoint: str, folder: str, output: str, *tasks: str) -> None:
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": checkpoint, "dtype": "float32"},
        device="cpu",
        tasks=list(tasks),
        task_manager=TaskManager(include_path=folder, include_defaults=False),
    )
    samples = {task: [[s["doc_id"], s["resps"]] for s in found["samples"][task]] for task in tasks}
    Path(output).write_text(json.dumps({"results": found["results"], "samples": samples}, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
