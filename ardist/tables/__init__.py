"""Tables with columns of different kinds: a density estimator of scikit-learn over data frames.

The module needs pandas and scikit-learn, which `pip install 'ardist[tables]'` adds. `import ardist`
does not import it.
"""

from ardist.tables.density import TableDensity
from ardist.tables.schema import Schema

__all__ = ["Schema", "TableDensity"]
