//! From what is known to a label: of a call before it is made, and of each thing in its result.

const std = @import("std");
const host = @import("host.zig");
const json = @import("json.zig");
const labels = @import("labels.zig");
const policies = @import("policy.zig");
const targets = @import("target.zig");
const tools = @import("tools.zig");
const visibility = @import("visibility.zig");
const Arena = @import("heap.zig").Arena;
const Label = labels.Label;
const Level = labels.Level;
const Node = json.Node;
const Repo = labels.Repo;
const Secrecy = labels.Secrecy;
const Visibility = visibility.Visibility;

pub const Context = struct {
    arena: *Arena,
    policy: *const policies.Policy,
    tool_name: []const u8,
    tool: tools.Tool,
    target: targets.Target,
    /// The visibility of the target's repository, once it was asked for.
    target_visibility: ?Visibility = null,

    fn visibilityOf(self: *Context, repo: *const Repo) Visibility {
        const is_target = if (self.target.repo) |*target| target.eql(repo) else false;
        if (is_target) {
            if (self.target_visibility) |found| return found;
        }
        const found = visibility.of(self.arena, repo);
        if (is_target) self.target_visibility = found;
        return found;
    }
};

/// The label of the call itself, from its arguments alone.
pub fn ofCall(context: *Context) Label {
    const known = visibilityOfCall(context);
    const label = Label{
        .secrecy = secrecyOfCall(context, known),
        .level = levelOfCall(context, known),
        .scope = scopeOfCall(context),
    };
    host.debug("  visibility: {s}", .{@tagName(known)});
    host.debug("  level: {s} to {s} of {s}", .{
        label.level.name(), context.tool.operation.name(), @tagName(context.tool.kind),
    });
    host.debug("  scope: {s}", .{@tagName(label.scope)});
    return label;
}

/// What items get that have no label of their own, and nothing is asked for.
pub fn ofUnlabelled(context: *Context) Label {
    return .{
        .secrecy = secrecyOfCall(context, context.target_visibility orelse .unknown),
        .level = .none,
        .scope = scopeOfCall(context),
    };
}

/// The backend is asked only where a public repository would make another label than a private one.
fn visibilityOfCall(context: *Context) Visibility {
    const repo = if (context.target.repo) |*repo| repo else {
        host.debug("  visibility: nothing to ask about", .{});
        return .unknown;
    };
    switch (context.tool.kind) {
        .issue, .pull, .commit, .comment, .discussion, .code, .metadata, .repository => {},
        .file => if (targets.isSensitivePath(context.target.path)) return .unknown,
        .alert, .advisory, .collaborator, .directory, .gist, .notification, .account, .project => return .unknown,
        .unknown => return .unknown,
    }
    return context.visibilityOf(repo);
}

fn secrecyOfCall(context: *Context, known: Visibility) Secrecy {
    const target = &context.target;
    switch (context.tool.kind) {
        .directory => return .public,
        .gist, .notification, .account => return .{ .word = "user" },
        .project => return ownerSecrecy(target),
        .file => if (targets.isSensitivePath(target.path)) {
            host.debug("  secrecy: {s} looks like it holds secrets", .{host.shown(target.path)});
            return if (target.repo) |repo| .{ .repo = repo } else .unscoped;
        },
        .repository => if (target.repo == null and !context.tool.search) return newRepositorySecrecy(target),
        else => {},
    }
    if (target.public_only and context.tool.search) return .public;
    const repo = target.repo orelse return ownerSecrecy(target);
    const public = known == .public;
    host.debug("  secrecy: {s} is {s}", .{ repo.text(), if (public) "public" else "not known to be public" });
    return if (public) .public else .{ .repo = repo };
}

fn ownerSecrecy(target: *const targets.Target) Secrecy {
    if (target.owner.len == 0) return .unscoped;
    return .{ .word = target.owner };
}

fn newRepositorySecrecy(target: *const targets.Target) Secrecy {
    if (Node.boolean(target.args, .private) == false) return .public;
    return if (target.owner.len > 0) .{ .word = target.owner } else .{ .word = "user" };
}

fn levelOfCall(context: *Context, known: Visibility) Level {
    const tool = context.tool;
    if (!tool.known) return .merged; // nobody knows what it does: only who may do anything may call it
    if (tool.kind == .gist) return .unapproved;
    if (tool.operation != .read) return .approved;
    const floor: Level = if (known == .private) .approved else .none;
    return switch (tool.kind) {
        .issue, .pull, .comment, .discussion => floor,
        .commit => if (!tool.search and targets.isDefaultRef(context.target.sha)) .merged else floor,
        .file => floor.atLeast(levelOfFile(&context.target)),
        .code, .repository, .metadata, .advisory, .directory, .account, .project => .approved,
        .alert, .collaborator => .unapproved,
        .gist => .unapproved,
        .notification, .unknown => .none,
    };
}

fn levelOfFile(target: *const targets.Target) Level {
    // As for the tool itself: a commit id given in `sha` counts before `ref`.
    const ref = if (target.sha.len > 0) target.sha else target.ref;
    if (targets.isDefaultRef(ref)) return .merged;
    if (targets.isProposedRef(ref)) return .none;
    return if (targets.isCommitId(ref)) .unapproved else .approved;
}

fn scopeOfCall(context: *Context) labels.Scope {
    const target = &context.target;
    return switch (context.tool.kind) {
        .gist, .notification => .{ .word = "user" },
        .account => .{ .word = if (context.tool.operation == .read) "github" else "user" },
        .directory => .{ .word = "github" },
        .project => ownerScope(target),
        .repository => if (target.repo == null and !context.tool.search) .{ .word = "github" } else repoScope(target),
        else => repoScope(target),
    };
}

fn repoScope(target: *const targets.Target) labels.Scope {
    return if (target.repo) |repo| .{ .repo = repo } else ownerScope(target);
}

fn ownerScope(target: *const targets.Target) labels.Scope {
    return if (target.owner.len > 0) .{ .word = target.owner } else .none;
}

/// The label of one thing in a result.
pub fn ofItem(context: *Context, item: *const Node, repo: ?Repo) Label {
    const kind = context.tool.kind;
    const known = visibilityOfItem(context, item, if (repo) |*r| r else null);
    const level = levelOfItem(context, item, known);
    var label = Label{ .secrecy = .unscoped, .level = level, .scope = scopeOfCall(context) };
    if (repo) |r| {
        if (label.scope == .none or label.scope == .repo or context.tool.search) label.scope = .{ .repo = r };
    }
    label.secrecy = switch (kind) {
        .directory => .public,
        .notification, .account => .{ .word = "user" },
        .gist => if (Node.boolean(item, .public) == true) .public else .{ .word = "user" },
        .project => ownerSecrecy(&context.target),
        else => if (repo) |r| (if (known == .public) .public else .{ .repo = r }) else ownerSecrecy(&context.target),
    };
    return label;
}

fn visibilityOfItem(context: *Context, item: *const Node, repo: ?*const Repo) Visibility {
    const r = repo orelse return .unknown;
    switch (context.tool.kind) {
        .repository => return visibility.ofObject(item),
        .alert, .advisory, .collaborator, .directory, .gist, .notification, .account, .project => return .unknown,
        .unknown => return .unknown,
        .file, .code => {
            for ([_][]const u8{ context.target.path, item.stated(.path) }) |path| {
                if (!targets.isSensitivePath(path)) continue;
                host.debug("    {s} looks like it holds secrets: private", .{host.shown(path)});
                return .unknown;
            }
        },
        .issue, .pull, .commit, .comment, .discussion, .metadata => {},
    }
    for (repositoriesIn(item)) |object| {
        const full = Node.string(object, .full_name) orelse Node.string(object, .nameWithOwner) orelse continue;
        if (!std.ascii.eqlIgnoreCase(full, r.text())) continue;
        const said = visibility.ofObject(object);
        if (said == .unknown) continue;
        host.debug("    visibility of {s}: {s} (the data says so)", .{ r.text(), @tagName(said) });
        return said;
    }
    return context.visibilityOf(r);
}

/// Where a thing names the repository it belongs to.
pub fn repositoriesIn(item: *const Node) [3]?*const Node {
    return .{ item.object(.repository), Node.object(item.object(.base), .repo), item.object(.repo) };
}

fn levelOfItem(context: *Context, item: *const Node, known: Visibility) Level {
    const floor: Level = if (known == .private) .approved else .none;
    const level: Level = switch (context.tool.kind) {
        .issue, .comment, .discussion => floor.atLeast(ofAuthor(item)),
        .pull => floor.atLeast(ofAuthor(item)).atLeast(ofLineage(item)),
        .commit => blk: {
            const merged = !context.tool.search and targets.isDefaultRef(context.target.sha);
            host.debug("    commit: on the default branch={}", .{merged});
            break :blk if (merged) .merged else floor.atLeast(ofAuthor(item));
        },
        .file => return floor.atLeast(levelOfFile(&context.target)),
        .code, .repository, .metadata, .advisory, .directory, .account, .project => return .approved,
        .alert, .collaborator, .gist => return .unapproved,
        .notification, .unknown => return .none,
    };
    return byPolicy(context.policy, item, level);
}

fn ofAuthor(item: *const Node) Level {
    const said = item.string(.author_association) orelse item.string(.authorAssociation) orelse {
        host.debug("    author: no association given", .{});
        return .none;
    };
    const level = Level.ofAssociation(said);
    host.debug("    author: association {s}: {s}", .{ host.shown(said), level.name() });
    return level;
}

/// Merged, or at least from a branch of the repository itself, which only who may push can make.
fn ofLineage(item: *const Node) Level {
    if (isMerged(item) or isMerged(item.object(.pull_request))) {
        host.debug("    pull request: merged", .{});
        return .merged;
    }
    const base = Node.string(Node.object(item.object(.base), .repo), .full_name) orelse "";
    const head = Node.string(Node.object(item.object(.head), .repo), .full_name) orelse "";
    if (base.len == 0 or head.len == 0) {
        host.debug("    pull request: not merged, origin unknown", .{});
        return .none;
    }
    const direct = std.ascii.eqlIgnoreCase(base, head);
    host.debug("    pull request: not merged, from {s}", .{host.shown(head)});
    return if (direct) .approved else .unapproved;
}

fn isMerged(item: ?*const Node) bool {
    for ([_]json.Key{ .merged_at, .mergedAt }) |key| {
        if (Node.string(item, key)) |when| if (when.len > 0) return true;
    }
    return Node.boolean(item, .merged) == true;
}

/// What the policy says of who wrote it and how it is labelled on GitHub, from weakest to strongest.
fn byPolicy(policy: *const policies.Policy, item: *const Node, start: Level) Level {
    const login = authorOf(item);
    var level = start;
    if (policies.isTrustedBot(policy, login)) {
        host.debug("    {s} is a trusted bot", .{host.shown(login)});
        level = level.atLeast(.approved);
    }
    if (policies.contains(policy.trusted_users, login)) {
        host.debug("    {s} is a trusted user", .{host.shown(login)});
        level = level.atLeast(.approved);
    }
    if (labelledWith(item, policy.approval_labels)) |name| {
        host.debug("    approval label {s}", .{host.shown(name)});
        level = level.atLeast(.approved);
    }
    if (labelledWith(item, policy.refusal_labels)) |name| {
        host.debug("    refusal label {s}", .{host.shown(name)});
        level = .none;
    }
    if (policies.contains(policy.blocked_users, login)) {
        host.info("    {s} is blocked", .{host.shown(login)});
        level = .blocked;
    }
    const users = policy.trusted_users.len + policy.blocked_users.len;
    const bots = policy.trusted_bots.len + policies.github_bots.len;
    host.debug("    policy: {s} checked against {d} users and {d} bots", .{ host.shown(login), users, bots });
    host.debug("    level: {s} at first, {s} by the policy", .{ start.name(), level.name() });
    return level;
}

fn authorOf(item: *const Node) []const u8 {
    for ([_]json.Key{ .user, .author }) |key| {
        if (Node.string(item.object(key), .login)) |login| return login;
        if (item.string(key)) |login| return login;
    }
    return "";
}

fn labelledWith(item: *const Node, wanted: []const []const u8) ?[]const u8 {
    if (wanted.len == 0) return null;
    const list = item.array(.labels) orelse Node.array(item.object(.labels), .nodes) orelse return null;
    var child = list.first();
    while (child) |node| : (child = node.next) {
        const name = if (node.kind == .string) node.text() else node.string(.name) orelse continue;
        if (policies.contains(wanted, name)) return name;
    }
    return null;
}
