"""`python -m automl_search train FOLDER | serve`: what infra/topology.json names for AutoML."""

from __future__ import annotations

import sys
from pathlib import Path

from automl_search import folders, search, serving


def main() -> None:
    """Search in a folder, or serve what a search left in the folder that AUTOML_MODEL names."""
    if sys.argv[1] == "train":
        search.train(folders.read_task(Path(sys.argv[2])))
    else:
        serving.serve(search.served(folders.served_folder()))


if __name__ == "__main__":
    main()
