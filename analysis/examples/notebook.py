"""The notebook of the walk-through, run and with its outputs: make walkthrough."""

import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("walkthrough.py")


def make(target: Path) -> None:
    """Run the cells of the script in a kernel, and write them with what they show.

    What is said on stderr is left out: warnings name paths of this machine.
    """
    import jupytext
    import nbclient

    notebook = jupytext.read(SCRIPT)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}  # no random id in a diff
    folder = {"metadata": {"path": str(SCRIPT.parent)}}
    client = nbclient.NotebookClient(notebook, resources=folder, record_timing=False)
    client.coalesce_streams = True
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [out for out in cell.outputs if out.get("name") != "stderr"]
            cell.outputs = shown
    jupytext.write(notebook, target)


if __name__ == "__main__":
    make(SCRIPT.with_suffix(".ipynb"))
    print(f"{SCRIPT.with_suffix('.ipynb')}: run and written", file=sys.stderr)
