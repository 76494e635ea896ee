"""Write a notebook as git stores it: without outputs, execution counts and an editor's metadata.

`make install` sets this as git's filter for notebooks (see .gitattributes). The file on the disk keeps its outputs.
"""
import json
import sys

from execnb.nbio import dict2nb, nb2str
from nbdev.clean import clean_nb

text = sys.stdin.buffer.read().decode("utf-8")
try:
    notebook = dict2nb(json.loads(text))
    for cell in notebook.cells:
        if cell.cell_type == "code": cell.outputs, cell.execution_count = [], None
    clean_nb(notebook, allowed_cell_metadata_keys=["tags"])
    text = nb2str(notebook)
except (ValueError, KeyError, AttributeError): pass  # no notebook, or one with conflicts: git stores it as it is
sys.stdout.buffer.write(text.encode("utf-8"))
