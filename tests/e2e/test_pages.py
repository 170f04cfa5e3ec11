"""The pages of the API in a browser: they work, nothing is rejected by their own policy, and no other host is asked."""

from urllib.parse import urlsplit

import pytest

# What a page shows once its scripts have run.
PAGES = {
    "/docs": ".opblock",
    "/redoc": ".menu-content",
    "/login": "text=Password",
    "/api/audio/sessions": ".request-info",
}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_works_and_asks_nobody_else(page, server, complaints, hosts, path):
    page.goto(path)
    page.wait_for_selector(PAGES[path])
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert hosts - {""} == {urlsplit(server.url).netloc}


def test_a_request_is_tried_out_in_the_docs(page, complaints):
    page.goto("/docs")
    page.click("[data-path='/health/ready']")
    page.click("text=Try it out")
    page.click("text=Execute")
    page.wait_for_selector(".live-responses-table >> text=200")
    assert complaints == []
