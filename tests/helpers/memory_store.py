"""Processes that are threads: the store that they share, and what each of them said."""

import threading

from hsproto.errors import UserError


class MemoryStore:
    """The store of processes in one: `hsproto.parallel.store.Store`."""

    def __init__(self):
        self._texts, self._changed = {}, threading.Condition()

    def put(self, key, text):
        with self._changed:
            self._texts[key] = text
            self._changed.notify_all()

    def put_first(self, key, text):
        with self._changed:
            first = self._texts.setdefault(key, text) is text
            self._changed.notify_all()
        return first

    def get(self, key):
        return self._texts.get(key)

    def wait(self, key):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._texts, timeout=20), key
            return self._texts[key]

    def all(self, folder):
        with self._changed:
            return {
                key.rpartition("/")[2]: text
                for key, text in self._texts.items()
                if key.startswith(f"{folder}/")
            }


def in_threads(*calls):
    """The UserError of each call as a text, or None, in the order of the calls."""
    said = [None] * len(calls)

    def attempt(number, call):
        try:
            call()
        except UserError as error:
            said[number] = str(error)

    threads = [threading.Thread(target=attempt, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return said
