"""Anything may happen to a store, in any order, in a folder and behind a URL."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from store_machine import StoreMachine


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """No power is cut in these tests, and syncs would take nearly all of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


class BehindAUrl(StoreMachine):
    KIND = "memory"


FEW = settings(max_examples=8, stateful_step_count=12, deadline=None, derandomize=True)
MANY = settings(max_examples=200, stateful_step_count=30, deadline=None)

TestFolder = StoreMachine.TestCase
TestFolder.settings = FEW
TestBehindAUrl = BehindAUrl.TestCase
TestBehindAUrl.settings = FEW


@pytest.mark.slow
class TestFolderAtLength(type("AtLength", (StoreMachine,), {}).TestCase):
    settings = MANY


@pytest.mark.slow
class TestBehindAUrlAtLength(type("UrlAtLength", (BehindAUrl,), {}).TestCase):
    settings = MANY
