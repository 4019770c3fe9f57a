//! What a call is about, read from its arguments.

const std = @import("std");
const host = @import("host.zig");
const json = @import("json.zig");
const labels = @import("labels.zig");
const Node = json.Node;
const Repo = labels.Repo;

pub const Target = struct {
    repo: ?Repo = null,
    /// The owner alone, where there is no repository: an organisation's projects, a search in it.
    owner: []const u8 = "",
    number: []const u8 = "",
    path: []const u8 = "",
    ref: []const u8 = "",
    sha: []const u8 = "",
    method: []const u8 = "",
    /// The call asks for public repositories only.
    public_only: bool = false,
    args: ?*const Node = null,

    pub fn read(args: ?*const Node, search: bool) Target {
        var target = Target{ .args = args };
        const owner = Node.string(args, .owner) orelse Node.string(args, .org) orelse "";
        const repo = Node.string(args, .repo) orelse "";
        target.repo = if (owner.len > 0) Repo.init(owner, repo) else Repo.parse(repo);
        target.owner = if (isOwner(owner)) owner else "";
        target.number = numberOf(args);
        target.path = Node.stated(args, .path);
        target.ref = Node.stated(args, if (Node.get(args, .ref) != null) .ref else .branch);
        target.sha = Node.stated(args, .sha);
        target.method = Node.string(args, .method) orelse "";
        host.debug("  args: owner={s} repo={s}", .{ host.shown(owner), host.shown(repo) });
        host.debug("  args: number={s}", .{target.number});
        host.debug("  args: path={s}", .{host.shown(target.path)});
        host.debug("  args: ref={s} sha={s}", .{ host.shown(target.ref), host.shown(target.sha) });
        host.debug("  args: method={s}", .{host.shown(target.method)});
        if (search and target.repo == null) target.readQuery(Node.string(args, .query) orelse "");
        if (target.repo) |*known| {
            host.debug("  target: repository {s}", .{known.text()});
        } else {
            host.debug("  target: no one repository, owner {s}", .{host.shown(target.owner)});
        }
        return target;
    }

    const Qualifier = enum { repo, org, user, is, visibility };

    /// What the qualifiers of a search say about where its hits come from.
    ///
    /// A qualifier only binds a query that is a plain list of terms: with OR, NOT or parentheses it may not, and inside
    /// quotes it is text. Then nothing is concluded.
    fn readQuery(self: *Target, query: []const u8) void {
        var found = Target{};
        var repos: u32 = 0;
        var i: usize = 0;
        while (i < query.len) {
            if (query[i] == ' ' or query[i] == '\t') {
                i += 1;
                continue;
            }
            const start = i;
            var quoted = false;
            while (i < query.len and (quoted or (query[i] != ' ' and query[i] != '\t'))) : (i += 1) {
                if (query[i] == '"') quoted = !quoted;
                if (!quoted and (query[i] == '(' or query[i] == ')')) return self.loose(query);
            }
            const term = query[start..i];
            if (std.mem.eql(u8, term, "OR") or std.mem.eql(u8, term, "NOT")) return self.loose(query);
            const colon = std.mem.indexOfScalar(u8, term, ':') orelse continue;
            const value = term[colon + 1 ..];
            switch (std.meta.stringToEnum(Qualifier, term[0..colon]) orelse continue) {
                .repo => {
                    repos += 1;
                    found.repo = Repo.parse(value) orelse return self.loose(query);
                },
                .org, .user => {
                    if (found.owner.len > 0 or !isOwner(value)) return self.loose(query);
                    found.owner = value;
                },
                .is, .visibility => if (std.mem.eql(u8, value, "public")) {
                    found.public_only = true;
                },
            }
        }
        if (repos > 1 or (repos == 1 and found.owner.len > 0)) return self.loose(query);
        self.repo = found.repo;
        if (found.owner.len > 0) self.owner = found.owner;
        self.public_only = found.public_only;
        host.debug("  query: {s}: one repository={}, public only={}", .{
            host.shown(query), found.repo != null, found.public_only,
        });
    }

    fn loose(_: *Target, query: []const u8) void {
        host.debug("  query: {s}: may come from anywhere", .{host.shown(query)});
    }

    fn numberOf(args: ?*const Node) []const u8 {
        const keys = [_]json.Key{ .issue_number, .pullNumber, .pull_number, .discussionNumber, .alertNumber, .number };
        for (keys) |key| if (Node.digits(args, key)) |digits| return digits;
        return "";
    }

    fn isOwner(text: []const u8) bool {
        return Repo.init(text, "x") != null;
    }
};

/// No ref, or the usual name of the default branch: what is there was merged.
pub fn isDefaultRef(ref: []const u8) bool {
    var name = ref;
    if (std.mem.startsWith(u8, name, "refs/")) name = name["refs/".len..];
    if (std.mem.startsWith(u8, name, "heads/")) name = name["heads/".len..];
    for ([_][]const u8{ "", "main", "master", "HEAD" }) |known| if (std.mem.eql(u8, name, known)) return true;
    return false;
}

/// Refs under pull/ are what anybody proposes, not what the repository holds.
pub fn isProposedRef(ref: []const u8) bool {
    if (std.mem.eql(u8, ref, json.unreadable)) return true;
    return std.mem.startsWith(u8, ref, "refs/pull/") or std.mem.startsWith(u8, ref, "pull/");
}

/// A full commit id. A fork's commits can be had through the repository too, so an id alone vouches for nothing.
pub fn isCommitId(ref: []const u8) bool {
    if (ref.len != 40 and ref.len != 64) return false;
    for (ref) |c| if (!std.ascii.isHex(c)) return false;
    return true;
}

/// Files that hold secrets stay private in a public repository: if one is there, it is there by mistake.
pub fn isSensitivePath(given: []const u8) bool {
    if (std.mem.eql(u8, given, json.unreadable)) return true;
    const path = std.mem.trimRight(u8, given, "/ ");
    const slash = std.mem.lastIndexOfScalar(u8, path, '/');
    const name = if (slash) |at| path[at + 1 ..] else path;
    const whole = [_][]const u8{
        ".npmrc",      ".netrc",           ".pypirc",     ".htpasswd",    "id_rsa",       "id_ed25519", "id_ecdsa",
        "credentials", "credentials.json", "secrets.yml", "secrets.yaml", "secrets.json",
    };
    for (whole) |word| if (std.ascii.eqlIgnoreCase(name, word)) return true;
    const endings = [_][]const u8{ ".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx" };
    for (endings) |ending| if (std.ascii.endsWithIgnoreCase(name, ending)) return true;
    if (std.ascii.eqlIgnoreCase(name, ".env.example")) return false;
    return std.ascii.eqlIgnoreCase(name, ".env") or std.ascii.startsWithIgnoreCase(name, ".env.");
}
