"""Events and webhooks: what happens to sessions is stored, and told to endpoints and to pages that listen.

`events` stores an event in the transaction that changes the state. `outbox` gives it a position and a delivery for each
endpoint that wants it. `delivery` sends what is due. `stream` reads the events again for pages.
"""
