//! The policy that `label_agent` gets, kept for as long as the instance lives.

const std = @import("std");
const host = @import("host.zig");
const json = @import("json.zig");
const labels = @import("labels.zig");
const Arena = @import("heap.zig").Arena;
const Node = json.Node;

pub const Entry = struct {
    /// As tags name it: `owner`, `owner/name` or `owner/prefix*`.
    label: []const u8,
    owner: []const u8,
    /// The repository's name or how it begins; empty for all of an owner's.
    name: []const u8,
    prefix: bool,

    fn matches(self: *const Entry, repo: *const labels.Repo) bool {
        if (!std.mem.eql(u8, self.owner, repo.ownerText())) return false;
        if (self.prefix) return std.mem.startsWith(u8, repo.nameText(), self.name);
        return std.mem.eql(u8, self.name, repo.nameText());
    }
};

pub const Policy = struct {
    /// `repos` is "all" or "public".
    covers_all: bool,
    entries: []const Entry,
    /// What integrity tags name as their scope for whatever the policy covers.
    token: []const u8,
    /// More than one entry: the token is a list, and tags have another form.
    composite: bool,
    min_integrity: labels.Level,
    blocked_users: []const []const u8,
    trusted_users: []const []const u8,
    trusted_bots: []const []const u8,
    approval_labels: []const []const u8,
    refusal_labels: []const []const u8,

    pub fn kindName(self: *const Policy) []const u8 {
        if (self.covers_all) return if (std.mem.eql(u8, self.token, "all")) "All" else "Public";
        if (self.composite) return "Composite";
        const entry = self.entries[0];
        if (!entry.prefix) return "Repo";
        return if (entry.name.len == 0) "Owner" else "RepoPrefix";
    }

    pub fn matching(self: *const Policy, repo: *const labels.Repo) ?*const Entry {
        for (self.entries) |*entry| if (entry.matches(repo)) return entry;
        return null;
    }
};

/// Bots that GitHub itself runs: whatever the policy says, they are as good as a member.
pub const github_bots = [_][]const u8{ "dependabot[bot]", "github-actions[bot]", "github-merge-queue[bot]", "copilot" };

pub fn isTrustedBot(policy: *const Policy, login: []const u8) bool {
    return contains(&github_bots, login) or contains(policy.trusted_bots, login);
}

pub fn contains(list: []const []const u8, word: []const u8) bool {
    for (list) |entry| if (std.ascii.eqlIgnoreCase(entry, word)) return true;
    return false;
}

pub const Error = error{ BadPolicy, OutOfMemory };

/// Reads a policy into `arena`, which must outlive it.
pub fn read(arena: *Arena, root: *const Node) Error!Policy {
    const rules = root.object(.@"allow-only") orelse root.object(.allowonly) orelse
        return bad("there is no `allow-only` object");
    const min = rules.string(.@"min-integrity") orelse rules.string(.integrity) orelse
        return bad("`min-integrity` is missing or no string");
    var policy = Policy{
        .covers_all = false,
        .entries = &.{},
        .token = "",
        .composite = false,
        .min_integrity = labels.Level.parse(min) orelse return bad("`min-integrity` is no level"),
        .blocked_users = try words(arena, rules, .@"blocked-users"),
        .trusted_users = try words(arena, rules, .@"trusted-users"),
        .trusted_bots = try words(arena, root, .@"trusted-bots"),
        .approval_labels = try words(arena, rules, .@"approval-labels"),
        .refusal_labels = try words(arena, rules, .@"refusal-labels"),
    };
    const repos = rules.get(.repos) orelse return bad("`repos` is missing");
    switch (repos.kind) {
        .string => try readWord(&policy, repos.text()),
        .array => try readEntries(arena, &policy, repos),
        else => return bad("`repos` is neither a word nor a list"),
    }
    return policy;
}

fn bad(reason: []const u8) Error {
    host.failure("policy refused: {s}", .{reason});
    return error.BadPolicy;
}

fn readWord(policy: *Policy, text: []const u8) Error!void {
    const word = std.mem.trim(u8, text, " \t\r\n");
    inline for (.{ "all", "public" }) |known| {
        if (std.ascii.eqlIgnoreCase(word, known)) {
            policy.covers_all = true;
            policy.token = known;
            return;
        }
    }
    return bad("`repos` is neither all, public nor a list");
}

fn readEntries(arena: *Arena, policy: *Policy, list: *const Node) Error!void {
    if (list.b == 0) return bad("`repos` is an empty list");
    const entries = try arena.list(Entry, list.b);
    var n: usize = 0;
    var joined: usize = 0;
    var child = list.first();
    while (child) |node| : (child = node.next) {
        if (node.kind != .string) return bad("an entry of `repos` is no string");
        entries[n] = try readEntry(arena, node.text());
        joined += entries[n].label.len + 1;
        n += 1;
    }
    if (n != list.b) return bad("an entry of `repos` is no string");
    policy.entries = entries;
    policy.composite = n > 1;
    if (n == 1) {
        policy.token = entries[0].label;
        return;
    }
    const token = try arena.bytes(joined - 1, 1);
    var at: usize = 0;
    for (entries) |entry| {
        if (at > 0) {
            token[at] = ',';
            at += 1;
        }
        @memcpy(token[at..][0..entry.label.len], entry.label);
        at += entry.label.len;
    }
    policy.token = token;
}

fn readEntry(arena: *Arena, text: []const u8) Error!Entry {
    const lower = try arena.bytes(text.len, 1);
    _ = std.ascii.lowerString(lower, text);
    const entry = std.mem.trim(u8, lower, " \t\r\n");
    const slash = std.mem.indexOfScalar(u8, entry, '/') orelse return bad("an entry of `repos` has no owner");
    const prefix = std.mem.endsWith(u8, entry, "*");
    const name = entry[slash + 1 .. entry.len - @intFromBool(prefix)];
    const owner = entry[0..slash];
    // The same rule as for repositories of the traffic, so that no entry can fail to match what it names.
    if (labels.Repo.init(owner, if (name.len == 0 and prefix) "x" else name) == null) {
        return bad("an entry of `repos` is no owner/name");
    }
    return .{
        .label = if (prefix and name.len == 0) owner else entry,
        .owner = owner,
        .name = name,
        .prefix = prefix,
    };
}

/// A list of words: an array of strings, or one string cut at commas and newlines.
fn words(arena: *Arena, from: *const Node, key: json.Key) Error![]const []const u8 {
    const node = from.get(key) orelse return &.{};
    switch (node.kind) {
        .string => return split(arena, node.text()),
        .array => {},
        else => return bad("a list of words is no list"),
    }
    const list = try arena.list([]const u8, node.b);
    var n: usize = 0;
    var child = node.first();
    while (child) |word| : (child = word.next) {
        if (word.kind != .string) return bad("a list of words holds something else");
        list[n] = try arena.dupe(std.mem.trim(u8, word.text(), " \t\r\n"));
        if (list[n].len == 0) return bad("a list of words holds an empty one");
        n += 1;
    }
    if (n != node.b) return bad("a list of words holds something else");
    return list;
}

fn split(arena: *Arena, text: []const u8) Error![]const []const u8 {
    const copy = try arena.dupe(text);
    const list = try arena.list([]const u8, std.mem.count(u8, copy, ",") + std.mem.count(u8, copy, "\n") + 1);
    var n: usize = 0;
    var parts = std.mem.tokenizeAny(u8, copy, ",\n");
    while (parts.next()) |part| {
        const word = std.mem.trim(u8, part, " \t\r");
        if (word.len == 0) continue;
        list[n] = word;
        n += 1;
    }
    return list[0..n];
}
