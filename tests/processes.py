"""What other processes of tests/test_suite.py do; imports little, as each begins anew."""

import sys
import time

from srpo.suite import jobs


def note_cores(folder, share):
    jobs.keep_to(share)
    (folder / str(share[0])).write_text(str(jobs.cores()))
    if share[0] % 2:
        sys.exit(3)


def wait(share):
    time.sleep(600)
