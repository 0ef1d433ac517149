"""The keys of results, which ``_results.pyi`` lists for type checkers, from the JSON Schemas of the command line."""

__all__ = ["ComparisonKeys", "DifferencesKeys", "RecommendationKeys", "ReportKeys"]


class ReportKeys:
    """The keys of ``servecast schema report``."""


class ComparisonKeys:
    """The keys of ``servecast schema comparison``."""


class DifferencesKeys:
    """The keys of ``servecast schema differences``."""


class RecommendationKeys:
    """The keys of ``servecast schema recommendation``."""
