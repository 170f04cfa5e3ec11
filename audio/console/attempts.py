"""The limit of failed logins, on top of django-axes, which stores them in the database."""

from axes.handlers.database import AxesDatabaseHandler
from django.db.models import Sum
from django.http import HttpRequest

# An office shares an address, so an address may fail more often than one person there. So may a name that somebody
# tries from many addresses, because otherwise a stranger could easily keep its owner out.
SHARED_FACTOR = 10


class Attempts(AxesDatabaseHandler):  # type: ignore[misc]  # axes is not typed
    """Failed logins, counted by name and address, by address, and by name (AXES_LOCKOUT_PARAMETERS).

    Logins are locked after LOGIN_FAILURES failures of a name from one address. The limits of an address alone and of a
    name alone are SHARED_FACTOR times as high.
    """

    def get_failures(self, request: HttpRequest, credentials: dict[str, object] | None = None) -> int:
        """Return the highest of the three counts, those of an address and of a name divided by SHARED_FACTOR."""
        attempts = self.get_user_attempts(request, credentials)
        pair, *shared = (each.aggregate(count=Sum("failures_since_start"))["count"] or 0 for each in attempts)
        return max(pair, *(count // SHARED_FACTOR for count in shared))

    def reset_user_attempts(self, request: HttpRequest, credentials: dict[str, object] | None = None) -> int:
        """Forget the failures of a name at an address, and only these: others may be attacks from there."""
        pair = self.filter_user_attempts(request, credentials)[0]
        count, _ = pair.delete()
        return int(count)
