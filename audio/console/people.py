"""The accounts of people who log in through an OpenID provider."""

import itertools
from collections.abc import Mapping
from typing import Any

import structlog
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from audio.models import Membership, OpenIdAccount, Project

logger = structlog.stdlib.get_logger(__name__)

# A number is added to a name that somebody else has.
_NAME_MAX_LENGTH = 140
_EMAIL_MAX_LENGTH = 254
_PERSONAL_NAME_MAX_LENGTH = 150


def user_of(issuer: str, claims: Mapping[str, Any]) -> User:
    """Return the user with the claims of an ID token, which is created at their first login.

    A person is known by issuer and subject alone, which never change (OpenID Connect Core 1.0, section 5.7). A user who
    exists already, and has the same name or address, stays a different user.
    """
    subject = str(claims["sub"])
    known = OpenIdAccount.objects.select_related("user")
    account = known.filter(issuer=issuer, subject=subject).first()
    if account is None:
        try:
            return _create(issuer, subject, claims)
        except IntegrityError:  # the same person logs in twice at once
            account = known.get(issuer=issuer, subject=subject)
    return account.user


@transaction.atomic
def _create(issuer: str, subject: str, claims: Mapping[str, Any]) -> User:
    user = get_user_model().objects.create_user(
        _free_name(str(claims.get("preferred_username") or claims.get("email") or subject)),
        email=str(claims.get("email") or "")[:_EMAIL_MAX_LENGTH],
        first_name=str(claims.get("given_name") or "")[:_PERSONAL_NAME_MAX_LENGTH],
        last_name=str(claims.get("family_name") or "")[:_PERSONAL_NAME_MAX_LENGTH],
    )
    OpenIdAccount.objects.create(user=user, issuer=issuer, subject=subject)
    _join_default_project(user)
    logger.info("user_created", user=user.get_username(), issuer=issuer)
    return user


def _free_name(wanted: str) -> str:
    """Return the wanted name, with a number if somebody has it."""
    wanted = "".join(character for character in wanted if character.isprintable())[:_NAME_MAX_LENGTH]
    users = get_user_model().objects
    names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not users.filter(username__iexact=name).exists())


def _join_default_project(user: User) -> None:
    if not settings.OIDC_DEFAULT_PROJECT:
        return
    project = Project.objects.filter(name=settings.OIDC_DEFAULT_PROJECT).first()
    if project is None:
        logger.error("default_project_missing", project=settings.OIDC_DEFAULT_PROJECT)
        return
    Membership.objects.create(project=project, user=user, role=settings.OIDC_DEFAULT_ROLE)
