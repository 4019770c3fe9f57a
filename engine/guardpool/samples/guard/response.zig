//! A result, thing by thing: where its items are, whose they are, and a label for each.

const std = @import("std");
const host = @import("host.zig");
const json = @import("json.zig");
const labels = @import("labels.zig");
const rules = @import("rules.zig");
const tools = @import("tools.zig");
const visibility = @import("visibility.zig");
const Node = json.Node;
const Out = @import("out.zig").Out;
const Repo = labels.Repo;

/// Items past this many get the label of the unlabelled, which is the most restrictive.
const max_items = 10_000;

const Page = struct {
    items: *const Node,
    pointer: []const u8,
};

pub fn label(context: *rules.Context, result: ?*const Node, out: *Out) void {
    const failed = Node.boolean(result, .isError) == true;
    const root: ?*const Node = if (result) |r| visibility.unwrap(context.arena, r) else null;
    if (failed) host.debug("  result: the tool reports an error", .{});
    if (root) |r| host.debug("  result: {s} of {d}", .{ @tagName(r.kind), r.b });
    out.raw("{\"labeled_paths\":[");
    const page = if (root != null and !failed) findPage(context, root.?) else null;
    if (page) |p| {
        labelItems(context, p, out);
        out.raw("],\"default_labels\":");
        writeUnlabelled(context, out);
        if (p.pointer.len > 0) {
            out.raw(",\"items_path\":");
            out.string(p.pointer);
        }
    } else {
        out.raw("],\"default_labels\":");
        labelWhole(context, if (failed) null else root, out);
    }
    out.raw("}");
}

fn labelWhole(context: *rules.Context, root: ?*const Node, out: *Out) void {
    var buffer: [description_bytes]u8 = undefined;
    const reading = context.tool.operation == .read;
    if (reading and root != null and root.?.kind == .object) {
        const item = root.?;
        const repo = repoOf(context, item);
        const found = rules.ofItem(context, item, repo);
        return labels.write(out, describe(&buffer, context, item, repo), &found, context.policy);
    }
    // No object to look at (an error, text, what a write tool answers): what the call says is all that is known.
    var found = rules.ofCall(context);
    if (root == null or !reading) found.level = .none;
    labels.write(out, describe(&buffer, context, null, context.target.repo), &found, context.policy);
}

fn labelItems(context: *rules.Context, page: Page, out: *Out) void {
    host.debug("  page: {d} items at '{s}'", .{ page.items.b, page.pointer });
    if (page.items.b > max_items) {
        host.warning("{d} items: only {d} are labelled one by one", .{ page.items.b, max_items });
    }
    var labelled: usize = 0;
    var child = page.items.first();
    while (child) |item| : (child = item.next) {
        if (item.kind != .object) continue;
        if (labelled == max_items) break;
        const repo = repoOf(context, item);
        host.debug("  item {d}: {d} members, number {s}", .{ item.index, item.b, item.digits(.number) orelse "-" });
        host.debug("    repository: {s}", .{if (repo) |*r| r.text() else "not known"});
        const found = rules.ofItem(context, item, repo);
        out.raw(if (labelled > 0) ",{\"path\":\"" else "{\"path\":\"");
        out.escaped(page.pointer);
        out.raw("/");
        out.number(item.index);
        out.raw("\",\"labels\":");
        var buffer: [description_bytes]u8 = undefined;
        labels.write(out, describe(&buffer, context, item, repo), &found, context.policy);
        out.raw("}");
        host.debug("    path: {s}/{d}", .{ page.pointer, item.index });
        labelled += 1;
    }
    host.debug("  page: {d} of {d} items have a label of their own", .{ labelled, page.items.b });
}

fn writeUnlabelled(context: *rules.Context, out: *Out) void {
    const found = rules.ofUnlabelled(context);
    var buffer: [description_bytes]u8 = undefined;
    labels.write(out, describe(&buffer, context, null, context.target.repo), &found, context.policy);
}

fn findPage(context: *const rules.Context, root: *const Node) ?Page {
    if (context.tool.operation != .read) return null;
    if (root.kind == .array) return .{ .items = root, .pointer = "" };
    if (root.kind != .object) return null;
    const usual = [_]json.Key{
        .items, .issues,    .pull_requests, .repositories, .commits, .workflow_runs, .workflows,
        .jobs,  .artifacts, .discussions,   .branches,     .tags,    .releases,      .alerts,
    };
    if (inside(root, "", &usual)) |page| return page;
    // A discussion or an issue may carry comments without being a list of them.
    const said = [_]json.Key{ .comments, .reviews, .nodes };
    if (context.tool.kind == .comment) if (inside(root, "", &said)) |page| return page;
    const data = root.object(.data) orelse return null;
    if (Node.array(data.object(.search), .nodes)) |found| return .{ .items = found, .pointer = "/data/search/nodes" };
    const repository = data.object(.repository);
    const connections = [_]struct { json.Key, []const u8 }{
        .{ .issues, "/data/repository/issues/nodes" },
        .{ .pullRequests, "/data/repository/pullRequests/nodes" },
        .{ .discussions, "/data/repository/discussions/nodes" },
    };
    for (connections) |entry| {
        const found = Node.array(Node.object(repository, entry[0]), .nodes) orelse continue;
        return .{ .items = found, .pointer = entry[1] };
    }
    return null;
}

fn inside(object: *const Node, comptime before: []const u8, comptime keys: []const json.Key) ?Page {
    inline for (keys) |key| {
        if (object.array(key)) |found| return .{ .items = found, .pointer = before ++ "/" ++ @tagName(key) };
    }
    return null;
}

/// The repository a thing belongs to: what was asked for, or for a search what the thing itself says.
fn repoOf(context: *const rules.Context, item: *const Node) ?Repo {
    if (!context.tool.search) {
        if (context.target.repo) |repo| return repo;
    }
    if (context.tool.kind == .repository) {
        if (nameOf(item)) |repo| return repo;
    }
    for (rules.repositoriesIn(item)) |object| {
        if (nameOf(object)) |repo| return repo;
    }
    for ([_]json.Key{ .repository_url, .html_url, .url }) |key| {
        if (item.string(key)) |url| if (Repo.ofUrl(url)) |repo| return repo;
    }
    return if (context.tool.kind == .repository) null else context.target.repo;
}

fn nameOf(object: ?*const Node) ?Repo {
    if (Node.string(object, .full_name)) |full| return Repo.parse(full);
    if (Node.string(object, .nameWithOwner)) |full| return Repo.parse(full);
    const owner = Node.string(Node.object(object, .owner), .login) orelse return null;
    return Repo.init(owner, Node.string(object, .name) orelse return null);
}

pub const description_bytes = 320;

/// `issue:owner/name#12`, `file:owner/name:path`, `commit:owner/name@0123abc`: for people, no rule reads it.
pub fn describe(buffer: []u8, context: *const rules.Context, item: ?*const Node, repo: ?Repo) []const u8 {
    const kind = context.tool.kind;
    var stream = std.io.fixedBufferStream(buffer);
    const w = stream.writer();
    if (!context.tool.known) return std.fmt.bufPrint(buffer, "tool:{s}", .{host.shown(context.tool_name)}) catch "tool";
    w.writeAll(@tagName(kind)) catch {};
    if (repo) |*r| w.print(":{s}", .{r.text()}) catch {};
    const target = &context.target;
    switch (kind) {
        .file, .code => {
            const path = Node.string(item, .path) orelse target.path;
            if (path.len > 0) w.print(":{s}", .{host.clip(path, 120)}) catch {};
        },
        .commit => {
            const sha = Node.string(item, .sha) orelse target.sha;
            if (sha.len > 0) w.print("@{s}", .{host.clip(sha, 7)}) catch {};
        },
        else => {
            const number = Node.digits(item, .number) orelse Node.digits(item, .id) orelse target.number;
            if (number.len > 0) w.print("#{s}", .{number}) catch {};
            if (number.len == 0 and repo == null) w.print(":{s}", .{host.shown(context.tool_name)}) catch {};
        },
    }
    return stream.getWritten();
}
