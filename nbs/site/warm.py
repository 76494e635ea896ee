"What is read and drawn once, in the process that those of the pages are forked from."
import io
from contextlib import suppress

from matplotlib.figure import Figure

from lth_nb.results import published_studies, read_results

for table in published_studies().values():
    with suppress(ValueError): read_results(table)  # the page that reads it says what is wrong
figure = Figure()
figure.subplots().set_title(r"$\theta_k$")  # fonts and formulas are prepared at the first drawing
figure.savefig(io.BytesIO())
