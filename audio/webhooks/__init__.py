"""Events of sessions, which are stored and sent to endpoints and to pages that listen.

`events` stores an event in the transaction that changes the state. `outbox` gives it a position and a delivery for each
endpoint that has subscribed to it. `delivery` sends the due deliveries. `audio.streams` reads the events for pages.
"""
