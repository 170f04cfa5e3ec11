"""Times on pages look like those in the log and on the landing page: with seconds and their time zone."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
