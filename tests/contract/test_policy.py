from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

import strategies
from guardpool.contract import ContractError, PolicyError, check_policy
from guardpool.errors import CallerError
from guardpool.guard import Guard


def _policy(**members: Any) -> dict[str, Any]:
    names = {name.replace("_", "-"): value for name, value in members.items()}
    return {"allow-only": {"repos": "all", "min-integrity": "none", **names}}


def _with_repos(*scopes: Any) -> dict[str, Any]:
    return {"allow-only": {"repos": list(scopes), "min-integrity": "none"}}


LISTS = ("blocked-users", "approval-labels", "trusted-users", "endorsement-reactions", "disapproval-reactions")


def test_the_payload_is_a_copy() -> None:
    policy = _policy(refusal_labels="a, b")
    before = copy.deepcopy(policy)
    payload = check_policy(policy, ["bot"], ["user"])
    payload["allow-only"]["repos"] = "public"
    assert policy == before


def test_a_policy_error_is_a_caller_error_and_a_contract_error() -> None:
    with pytest.raises(PolicyError) as caught:
        check_policy({})
    assert isinstance(caught.value, CallerError)
    assert isinstance(caught.value, ContractError)


def test_a_string_holds_one_object_with_white_space_around() -> None:
    assert check_policy(f"\u00a0\n{json.dumps(_policy())}\u3000") == _policy()


@pytest.mark.parametrize("text", ["", " \u2003", "{", "null", "[]", '"{}"', "{} {}", '{"allow-only": NaN}', "[" * 9999])
def test_a_policy_string_that_does_not_hold_an_object_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        check_policy(text)


def test_of_two_members_of_one_name_in_a_policy_string_the_last_counts() -> None:
    inner = '{"repos": 5, "repos": "all", "min-integrity": "none"}'
    assert check_policy(f'{{"allow-only": 5, "allow-only": {inner}}}') == _policy()


@pytest.mark.parametrize(
    "policy", [b"{}", 5, 5.0, True, [], (), {1: 2}, {"allow-only": {1: 2}}, object(), {"a": {1, 2}}]
)
def test_a_policy_that_is_not_a_json_object_is_refused(policy: Any) -> None:
    with pytest.raises(PolicyError):
        check_policy(policy)


def test_an_envelope_is_named_in_the_message() -> None:
    with pytest.raises(PolicyError, match="envelope"):
        check_policy({"policy": _policy()})


@pytest.mark.parametrize("key", ["Allow-Only", "AllowOnly", "allow_only", "write-sink", "trusted-users", ""])
def test_an_unknown_top_key_is_refused(key: str) -> None:
    with pytest.raises(PolicyError, match="unknown key"):
        check_policy({**_policy(), key: {}})
    with pytest.raises(PolicyError, match="no 'allow-only'"):
        check_policy({key: _policy()["allow-only"]})


@pytest.mark.parametrize("key", ["Repos", "promotion-label", "tool-call-limits", "trusted-bots", "min_integrity", ""])
def test_an_unknown_key_of_allow_only_is_refused(key: str) -> None:
    policy = _policy()
    policy["allow-only"][key] = "x"
    with pytest.raises(PolicyError, match="unknown key"):
        check_policy(policy)


def test_allow_only_wins_over_the_older_spelling_allowonly() -> None:
    policy = {**_policy(), "allowonly": 5}
    assert check_policy(policy) == policy
    with pytest.raises(PolicyError):
        check_policy({"allow-only": 5, "allowonly": _policy()["allow-only"]})


@pytest.mark.parametrize("value", ["\u00a0ALL\t", "publ\u0130c", "Public"])
def test_a_word_for_repos_may_be_in_any_case_and_is_sent_as_it_was(value: str) -> None:
    assert check_policy(_policy(repos=value))["allow-only"]["repos"] == value


@pytest.mark.parametrize("value", ["", "al l", "\x1call", "a\u017fl", "o/r", None, True, 1.5, {}, []])
def test_repos_of_another_word_or_type_are_refused(value: Any) -> None:
    with pytest.raises(PolicyError, match="repos"):
        check_policy(_policy(repos=value))


@pytest.mark.parametrize(
    "scope",
    ["o/r", " o/r\t", "o/*", "o/r*", "-/-", "_/_*", "0/0", "o" * 39 + "/" + "r" * 100, "o/" + "r" * 100 + "*"],
)
def test_a_scope_is_taken_and_sent_as_it_was(scope: str) -> None:
    assert check_policy(_with_repos(scope))["allow-only"]["repos"] == [scope]


@pytest.mark.parametrize(
    "scope",
    [
        *("", " ", "o", "o/", "/r", "o/r/x", "o//r", "O/r", "o/R", "o/r.x", "o/**", "o/*r", "o/r*x", "*/*", "o*/r"),
        *(
            "o/r\n/x",
            "\u00f6/r",
            "o/\u0661",
            "o" * 40 + "/r",
            "o/" + "r" * 101,
            "o/" + "r" * 101 + "*",
            "all",
            "public",
        ),
        *(None, 5, ["o/r"]),
    ],
    ids=strategies.short,
)
def test_a_bad_scope_is_refused(scope: Any) -> None:
    with pytest.raises(PolicyError, match=r"repos\[1\] must be"):
        check_policy(_with_repos("a/b", scope))


@pytest.mark.parametrize("scopes", [("o/r", "o/r"), ("o/r", " o/r"), ("a/*", "o/r", "a/*")])
def test_a_scope_given_twice_is_refused(scopes: tuple[str, ...]) -> None:
    with pytest.raises(PolicyError, match="twice"):
        check_policy(_with_repos(*scopes))


@pytest.mark.parametrize("level", ["none", "Unapproved", " APPROVED\u2003", "merged\n"])
@pytest.mark.parametrize("key", ["min-integrity", "integrity", "disapproval-integrity", "endorser-min-integrity"])
def test_a_level_may_be_in_any_case(key: str, level: str) -> None:
    policy = _policy()
    if key == "integrity":
        del policy["allow-only"]["min-integrity"]
    policy["allow-only"][key] = level
    assert check_policy(policy) == policy


@pytest.mark.parametrize("level", ["", " ", "high", "\x1cnone", "non\u00e9", None, 5, True, ["none"], {}])
@pytest.mark.parametrize("key", ["min-integrity", "disapproval-integrity", "endorser-min-integrity"])
def test_another_level_is_refused(key: str, level: Any) -> None:
    policy = _policy()
    policy["allow-only"][key] = level
    with pytest.raises(PolicyError, match=f"{key} must be one of none, unapproved, approved, merged"):
        check_policy(policy)


def test_min_integrity_hides_integrity_even_when_it_is_bad() -> None:
    assert check_policy(_policy(integrity=[5]))
    policy = _policy(integrity="none")
    policy["allow-only"]["min-integrity"] = None
    with pytest.raises(PolicyError, match="min-integrity"):
        check_policy(policy)


@pytest.mark.parametrize("name", [*LISTS, "refusal-labels"])
@pytest.mark.parametrize("value", [None, 5, {}, [""], ["\u2003"], ["a", None], ["a", 5], [["a"]], {"a": 1}])
def test_a_policy_list_that_holds_other_than_text_is_refused(name: str, value: Any) -> None:
    policy = _policy()
    policy["allow-only"][name] = value
    with pytest.raises(PolicyError, match=name):
        check_policy(policy)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", [[], [" a "], ["a", "a"], ["\x1c"]])
def test_a_policy_list_is_sent_unchanged(name: str, value: list[str]) -> None:
    policy = _policy()
    policy["allow-only"][name] = value
    assert check_policy(policy) == policy


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("a", ["a"]),
        (" a ,\n,b c\r\n", ["a", "b c"]),
        ("a;b\rc", ["a;b\rc"]),
        ("a,a", ["a", "a"]),
        (["\u00a0a ", "b,c"], ["a", "b,c"]),
        ([], []),
    ],
)
def test_refusal_labels_are_sent_as_trimmed_labels(value: Any, sent: list[str]) -> None:
    assert check_policy(_policy(refusal_labels=value))["allow-only"]["refusal-labels"] == sent


@pytest.mark.parametrize("value", ["", ",", " \n , \u3000"])
def test_refusal_labels_must_hold_one(value: str) -> None:
    with pytest.raises(PolicyError, match="at least one"):
        check_policy(_policy(refusal_labels=value))


@pytest.mark.parametrize("bots", [[], None, "a", [""], [5], {}])
def test_trusted_bots_are_a_list_that_is_not_empty(bots: Any) -> None:
    with pytest.raises(PolicyError, match="trusted-bots"):
        check_policy({**_policy(), "trusted-bots": bots})


def test_trusted_names_that_are_given_replace_the_policys_own() -> None:
    policy = {**_policy(trusted_users=["u1", " u2 "]), "trusted-bots": ["b1"]}
    payload = check_policy(policy, trusted_bots=("b2", " b3 ", "b2"), trusted_users=("u3",))
    assert payload["trusted-bots"] == ["b2", " b3 ", "b2"]
    assert payload["allow-only"]["trusted-users"] == ["u3"]
    assert check_policy(policy, trusted_users=["u3"])["trusted-bots"] == ["b1"]
    assert check_policy(policy, trusted_bots=["b2"])["allow-only"]["trusted-users"] == ["u1", " u2 "]
    assert policy["trusted-bots"] == ["b1"]


def test_trusted_names_are_put_where_there_were_none() -> None:
    payload = check_policy({"allowonly": _policy()["allow-only"]}, ["b"], ["u"])
    assert payload["trusted-bots"] == ["b"]
    assert payload["allowonly"]["trusted-users"] == ["u"]


def test_without_trusted_names_nothing_is_added() -> None:
    assert check_policy(_policy(), (), []) == _policy()


@pytest.mark.parametrize("names", ["bot", b"bot", [""], [" "], [None], [5], 5, None])
def test_trusted_names_that_are_not_names_are_refused(names: Any) -> None:
    with pytest.raises(PolicyError, match="trusted_bots"):
        check_policy(_policy(), trusted_bots=names)
    with pytest.raises(PolicyError, match="trusted_users"):
        check_policy(_policy(), trusted_users=names)


@pytest.mark.parametrize("names", ["bot", b"bot"])
def test_a_guard_does_not_take_the_letters_of_one_name_for_names(names: Any) -> None:
    for argument in ("trusted_bots", "trusted_users"):
        with pytest.raises(CallerError, match=f"{argument} must be a list of names"):
            Guard("g", b"", _policy(), **{argument: names})


@pytest.mark.parametrize("path", ["policy.json", " ./policy.yml ", "/etc/guards/policy", "a\\b", Path("policy.json")])
def test_a_path_in_the_place_of_a_policy_is_told_as_one(path: Any) -> None:
    with pytest.raises(PolicyError, match=r"path.*: pass what is in the file, e\.g\. policy=json\.loads"):
        check_policy(path)


@pytest.mark.parametrize("text", ['{"a": 1.json', "[a/b", '"x/y', "approved", "all the policies."])
def test_a_broken_text_in_the_place_of_a_policy_is_not_taken_for_a_path(text: str) -> None:
    with pytest.raises(PolicyError, match="not JSON"):
        check_policy(text)


def test_lone_surrogates_of_a_policy_are_replaced_so_that_it_can_be_sent() -> None:
    payload = check_policy(_policy(blocked_users=["a\ud800"]), ["\udfff"])
    assert payload["allow-only"]["blocked-users"] == ["a\ufffd"]
    assert payload["trusted-bots"] == ["\ufffd"]


def test_a_policy_nested_in_itself_is_refused() -> None:
    policy: dict[str, Any] = _policy()
    policy["allow-only"]["blocked-users"] = [policy]
    with pytest.raises(PolicyError, match="nested too deeply"):
        check_policy(policy)


_names = st.sampled_from(
    [
        "allow-only",
        "allowonly",
        "trusted-bots",
        "policy",
        "repos",
        "min-integrity",
        "integrity",
        "refusal-labels",
        *LISTS,
    ]
)
_values = st.recursive(
    st.one_of(strategies.scalars, st.sampled_from(["all", "none", "o/r", "a,b"]), st.floats(), st.binary(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_names | strategies.texts, inner, max_size=4), st.tuples(inner)
    ),
    max_leaves=15,
)
_near = st.builds(
    lambda top, inner: {"allow-only": {"repos": "all", "min-integrity": "none", **inner}, **top},
    st.dictionaries(_names, _values, max_size=2),
    st.dictionaries(_names, _values, max_size=3),
)


@given(st.one_of(_values, _near, strategies.json_values.map(json.dumps), strategies.texts), _values, _values)
def test_anything_is_a_payload_or_a_policy_error(policy: Any, bots: Any, users: Any) -> None:
    for arguments in ((policy,), (policy, bots, users)):
        try:
            payload = check_policy(*arguments)
        except PolicyError as error:
            assert strategies.is_one_short_line(error)  # noqa: PT017  # many examples raise nothing
        else:
            assert check_policy(json.dumps(payload)) == payload
