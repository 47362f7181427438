//! Rows of the geospatial commands, forwarded to Redis.

use crate::resp::{
    command::Row,
    key_spec::{Begin, Find, KeySpec},
    table::PASS,
};

/// In alphabetical order.
pub(super) const ROWS: &[Row] = &[
    Row::new("geoadd", -5, PASS)
        .flags("write denyoom")
        .categories("write geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RW update")])
        .doc("geo", "3.2.0", "O(log(N)) for each item added, where N is the number of elements in the sorted set.", "Add one or more geospatial items in the geospatial index represented using a sorted set")
        .arguments("key:key#0 condition?:oneof@6.2.0(nx:token='NX' xx:token='XX') change?:token='CH'@6.2.0 longitude_latitude_member*:block(longitude:double latitude:double member)"),
    Row::new("geodist", -4, PASS)
        .flags("readonly")
        .categories("read geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "3.2.0", "O(log(N))", "Returns the distance between two members of a geospatial index")
        .arguments("key:key#0 member1 member2 unit?:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI')"),
    Row::new("geohash", -2, PASS)
        .flags("readonly")
        .categories("read geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "3.2.0", "O(log(N)) for each member requested, where N is the number of elements in the sorted set.", "Returns members of a geospatial index as standard geohash strings")
        .arguments("key:key#0 member*"),
    Row::new("geopos", -2, PASS)
        .flags("readonly")
        .categories("read geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "3.2.0", "O(N) where N is the number of members requested.", "Returns longitude and latitude of members of a geospatial index")
        .arguments("key:key#0 member*"),
    Row::new("georadius", -6, PASS)
        .flags("write denyoom movablekeys")
        .categories("write geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access"), KeySpec::new(Begin::After("STORE", 6), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::After("STOREDIST", 6), Find::Range(0, 1, 0), "OW update")])
        .doc("geo", "3.2.0", "O(N+log(M)) where N is the number of elements inside the bounding box of the circular area delimited by center and radius and M is the number of items inside the index.", "Query a sorted set representing a geospatial index to fetch members matching a given maximum distance from a point")
        .deprecated("6.2.0", "`GEOSEARCH` and `GEOSEARCHSTORE` with the `BYRADIUS` argument")
        .arguments("key:key#0 longitude:double latitude:double radius:double unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI') withcoord?:token='WITHCOORD' withdist?:token='WITHDIST' withhash?:token='WITHHASH' count?:block(count:integer='COUNT' any?:token='ANY'@6.2.0) order?:oneof(asc:token='ASC' desc:token='DESC') key?:key#1='STORE' key?:key#2='STOREDIST'"),
    Row::new("georadius_ro", -6, PASS)
        .flags("readonly")
        .categories("read geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "3.2.10", "O(N+log(M)) where N is the number of elements inside the bounding box of the circular area delimited by center and radius and M is the number of items inside the index.", "A read-only variant for GEORADIUS")
        .deprecated("6.2.0", "`GEOSEARCH` with the `BYRADIUS` argument")
        .arguments("key:key#0 longitude:double latitude:double radius:double unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI') withcoord?:token='WITHCOORD' withdist?:token='WITHDIST' withhash?:token='WITHHASH' count?:block(count:integer='COUNT' any?:token='ANY'@6.2.0) order?:oneof(asc:token='ASC' desc:token='DESC')"),
    Row::new("georadiusbymember", -5, PASS)
        .flags("write denyoom movablekeys")
        .categories("write geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access"), KeySpec::new(Begin::After("STORE", 5), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::After("STOREDIST", 5), Find::Range(0, 1, 0), "OW update")])
        .doc("geo", "3.2.0", "O(N+log(M)) where N is the number of elements inside the bounding box of the circular area delimited by center and radius and M is the number of items inside the index.", "Query a sorted set representing a geospatial index to fetch members matching a given maximum distance from a member")
        .deprecated("6.2.0", "`GEOSEARCH` and `GEOSEARCHSTORE` with the `BYRADIUS` and `FROMMEMBER` arguments")
        .arguments("key:key#0 member radius:double unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI') withcoord?:token='WITHCOORD' withdist?:token='WITHDIST' withhash?:token='WITHHASH' count?:block(count:integer='COUNT' any?:token='ANY') order?:oneof(asc:token='ASC' desc:token='DESC') key?:key#1='STORE' key?:key#2='STOREDIST'"),
    Row::new("georadiusbymember_ro", -5, PASS)
        .flags("readonly")
        .categories("read geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "3.2.10", "O(N+log(M)) where N is the number of elements inside the bounding box of the circular area delimited by center and radius and M is the number of items inside the index.", "A read-only variant for GEORADIUSBYMEMBER")
        .deprecated("6.2.0", "`GEOSEARCH` with the `BYRADIUS` and `FROMMEMBER` arguments")
        .arguments("key:key#0 member radius:double unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI') withcoord?:token='WITHCOORD' withdist?:token='WITHDIST' withhash?:token='WITHHASH' count?:block(count:integer='COUNT' any?:token='ANY') order?:oneof(asc:token='ASC' desc:token='DESC')"),
    Row::new("geosearch", -7, PASS)
        .flags("readonly")
        .categories("read geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "6.2.0", "O(N+log(M)) where N is the number of elements in the grid-aligned bounding box area around the shape provided as the filter and M is the number of items inside the shape", "Query a sorted set representing a geospatial index to fetch members inside an area of a box or a circle.")
        .arguments("key:key#0 from:oneof(member='FROMMEMBER' longitude_latitude:block='FROMLONLAT'(longitude:double latitude:double)) by:oneof(circle:block(radius:double='BYRADIUS' unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI')) box:block(width:double='BYBOX' height:double unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI'))) order?:oneof(asc:token='ASC' desc:token='DESC') count?:block(count:integer='COUNT' any?:token='ANY') withcoord?:token='WITHCOORD' withdist?:token='WITHDIST' withhash?:token='WITHHASH'"),
    Row::new("geosearchstore", -8, PASS)
        .flags("write denyoom")
        .categories("write geo slow")
        .keys(&[KeySpec::new(Begin::At(1), Find::Range(0, 1, 0), "OW update"), KeySpec::new(Begin::At(2), Find::Range(0, 1, 0), "RO access")])
        .doc("geo", "6.2.0", "O(N+log(M)) where N is the number of elements in the grid-aligned bounding box area around the shape provided as the filter and M is the number of items inside the shape", "Query a sorted set representing a geospatial index to fetch members inside an area of a box or a circle, and store the result in another key.")
        .arguments("destination:key#0 source:key#1 from:oneof(member='FROMMEMBER' longitude_latitude:block='FROMLONLAT'(longitude:double latitude:double)) by:oneof(circle:block(radius:double='BYRADIUS' unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI')) box:block(width:double='BYBOX' height:double unit:oneof(m:token='M' km:token='KM' ft:token='FT' mi:token='MI'))) order?:oneof(asc:token='ASC' desc:token='DESC') count?:block(count:integer='COUNT' any?:token='ANY') storedist?:token='STOREDIST'"),
];
