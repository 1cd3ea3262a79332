"""Files of many gigabytes through the whole daemon: how much memory they take, and how much is sent twice."""
