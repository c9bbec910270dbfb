"""Cron expressions with a time zone: when one was due last, and when it is due next.

The five fields of crontab(5), read by `cronsim`, which is imported only where a data set has a schedule. On the days
when clocks are changed it does as Debian's cron does: what the missing hour had is due right after it, what the
repeated hour has is due once, unless it is due every hour anyway.
"""

from __future__ import annotations

import datetime
import zoneinfo

_MINUTE = datetime.timedelta(minutes=1)


def check(expression: str, time_zone: str) -> None:
    """Raise ValueError, which says what is wrong, unless both can be used."""
    slots_around(expression, time_zone, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))


def slots_around(
    expression: str, time_zone: str, now: datetime.datetime
) -> tuple[datetime.datetime, datetime.datetime]:
    """The last time up to `now` at which the expression was due, and the next one after it, both in UTC.

    Raises ValueError for an expression or a time zone that cannot be used.
    """
    from cronsim import CronSim, CronSimError  # noqa: PLC0415  # services without schedules do not have it

    try:
        zone = zoneinfo.ZoneInfo(time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"{time_zone!r} is not a time zone; name one such as Europe/Berlin, or UTC") from exc
    if len(expression.split()) != 5:  # cronsim would take a sixth for seconds, which our clock does not have
        raise ValueError(f"{expression!r} is not a cron expression of five fields; Mondays at six are '0 6 * * 1'")
    # To the whole minute that has begun: what is due at six is due at six and not a minute later.
    minute = now.astimezone(datetime.UTC).replace(second=0, microsecond=0)
    try:
        last = next(CronSim(expression, (minute + _MINUTE).astimezone(zone), reverse=True))
        following = next(CronSim(expression, minute.astimezone(zone)))
    except CronSimError as exc:
        raise ValueError(f"{expression!r} is not a cron expression ({exc}); Mondays at six are '0 6 * * 1'") from exc
    except StopIteration:
        raise ValueError(f"{expression!r} is never due") from None
    return last.astimezone(datetime.UTC), following.astimezone(datetime.UTC)
