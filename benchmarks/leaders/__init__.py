"""The leaderboard: requests, unlearners, what is measured, the page."""
