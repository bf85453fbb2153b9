"""Runs that several clusters make side by side, each taking the next one, and what has come of them."""

import threading


def side_by_side(leads):
    """Calls each (function, argument...) in a thread of its own, until all have ended."""
    threads = [threading.Thread(target=lead[0], args=lead[1:], daemon=True) for lead in leads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Tally:
    def __init__(self):
        self.lock, self.failed, self.done = threading.Lock(), [], 0
        self.skipped = ""  # the line that says why none can be made here

    def take(self, left):
        """The next of a list that threads share, or None."""
        with self.lock:
            return left.pop(0) if left and not self.skipped else None

    def over(self, name, fine):
        with self.lock:
            self.done += 1
            if not fine:
                self.failed.append(name)

    def end(self, text, between=" "):
        """Says what was skipped, or TEXT with what failed; the exit status."""
        if self.skipped:
            print(self.skipped)
            return 0
        print(f"# {text}; failed: {between.join(map(str, self.failed)) or 'none'}")
        return 1 if self.failed or not self.done else 0
